//! The versions of the CNI specification that we speak, in order.

/// A version of the specification.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum SpecVersion {
    /// One address a family, no `dns` search lists worth the name; assumed where a configuration says no version.
    V0_1_0,
    /// VERSION was added.
    V0_2_0,
    /// Lists of interfaces and addresses, chaining.
    V0_3_0,
    /// A correction of 0.3.0.
    V0_3_1,
    /// CHECK was added, DEL is given the earlier result.
    V0_4_0,
    /// `ips[].version` went away.
    V1_0_0,
    /// GC and STATUS, more fields of interfaces and routes.
    V1_1_0,
}

impl SpecVersion {
    /// All, oldest first.
    pub const ALL: [SpecVersion; 7] = [
        SpecVersion::V0_1_0,
        SpecVersion::V0_2_0,
        SpecVersion::V0_3_0,
        SpecVersion::V0_3_1,
        SpecVersion::V0_4_0,
        SpecVersion::V1_0_0,
        SpecVersion::V1_1_0,
    ];

    /// The newest.
    pub const LATEST: SpecVersion = SpecVersion::V1_1_0;

    /// As it stands in JSON.
    pub fn as_str(self) -> &'static str {
        match self {
            SpecVersion::V0_1_0 => "0.1.0",
            SpecVersion::V0_2_0 => "0.2.0",
            SpecVersion::V0_3_0 => "0.3.0",
            SpecVersion::V0_3_1 => "0.3.1",
            SpecVersion::V0_4_0 => "0.4.0",
            SpecVersion::V1_0_0 => "1.0.0",
            SpecVersion::V1_1_0 => "1.1.0",
        }
    }

    /// The version of that name, if we speak it.
    pub fn named(text: &str) -> Option<SpecVersion> {
        SpecVersion::ALL.into_iter().find(|version| version.as_str() == text)
    }
}
