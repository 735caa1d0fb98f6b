//! `NetworkDriver`, as far as networks are concerned: which subnets they have, and what a person wants of them.

use std::sync::atomic::Ordering;

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use super::book::{Change, Multicast, Network};
use super::fabric::Fabric;
use super::pool::{GLOBAL, LOCAL, PoolError, embedded_part};
use super::protocol::{CreateNetwork, IpamData, OfNetwork};
use super::{Driver, Failure};

/// `-o weave.multicast=off` leaves multicast to Docker's own gateway.
const MULTICAST: &str = "weave.multicast";

impl<F: Fabric> Driver<F> {
    pub(super) async fn create_network(&self, request: CreateNetwork) -> Result<(), Failure> {
        let ranges = self.fabric.ranges().await?;
        let multicast = match request.option(MULTICAST) {
            None | Some("on" | "true" | "1") => Multicast::Fabric,
            Some("off" | "false" | "0") => Multicast::Outside,
            Some(other) => {
                return Err(Failure::new(format!("`{MULTICAST}` is `{other}`, want `on` or `off`")));
            }
        };
        let (v4, v6) = (nets(&request.ipv4)?, nets(&request.ipv6)?);
        for subnet in v4.iter().chain(&v6) {
            embedded_part(*subnet, &ranges).map_err(|error| self.wrong_subnet(&request, &error))?;
        }
        if v4.is_empty() && v6.is_empty() {
            return Err(Failure::new(
                "a network needs a subnet of the fabric; type --ipam-driver as well as --driver",
            ));
        }
        let network = Network {
            v4: v4
                .iter()
                .filter_map(|net| if let IpNet::V4(net) = net { Some(*net) } else { None })
                .collect::<Vec<Ipv4Net>>(),
            v6: v6
                .iter()
                .filter_map(|net| if let IpNet::V6(net) = net { Some(*net) } else { None })
                .collect::<Vec<Ipv6Net>>(),
            multicast,
        };
        self.untaken.store(0, Ordering::Relaxed);
        tracing::info!(network = request.network_id, subnets = ?network.v4, "Docker made a network");
        Ok(self.book.lock().await.write(vec![Change::Network(request.network_id, Some(network))]).await?)
    }

    /// Containers that Docker has not told of are cut off: it only deletes networks that it knows to be empty.
    pub(super) async fn delete_network(&self, request: OfNetwork) -> Result<(), Failure> {
        let left: Vec<String> = {
            let book = self.book.lock().await;
            let of =
                book.page().endpoints.iter().filter(|(_, endpoint)| endpoint.network == request.network_id);
            of.map(|(id, _)| id.clone()).collect()
        };
        for endpoint in left {
            self.drop_endpoint(&endpoint).await?;
        }
        Ok(self.book.lock().await.write(vec![Change::Network(request.network_id, None)]).await?)
    }

    /// Docker's own IPAM chooses subnets that the fabric does not have: then it is the driver that was forgotten.
    fn wrong_subnet(&self, request: &CreateNetwork, error: &PoolError) -> Failure {
        let mut data = request.ipv4.iter().chain(&request.ipv6).flatten();
        if data.any(|one| one.address_space != LOCAL && one.address_space != GLOBAL) {
            let name = &self.name;
            return Failure::new(format!(
                "{error}; and Docker's own IPAM knows nothing of other hosts: type --ipam-driver {name} as well as --driver {name}"
            ));
        }
        Failure::new(error)
    }
}

fn nets(data: &Option<Vec<IpamData>>) -> Result<Vec<IpNet>, Failure> {
    let all = data.iter().flatten();
    all.map(|one| {
        let net = one.pool.parse::<IpNet>();
        net.map(|net| net.trunc()).map_err(|_| Failure::new(format!("`{}` is not a subnet", one.pool)))
    })
    .collect()
}
