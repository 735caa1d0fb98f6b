//! Kernel state: bridge, veth pairs, addresses, routes, nftables, through netlink and never by starting another program.
