//! Names of things: kinds of EC2 resources with their prefixes and complaints, numbers from a seed, ARNs.

use crate::error::{AwsError, refuse};

/// What EC2 gives identifiers to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Kind {
    Address,
    Attachment,
    Association,
    Dhcp,
    Fleet,
    Gateway,
    Group,
    GroupRule,
    Image,
    Instance,
    Interface,
    LaunchTemplate,
    Reservation,
    RouteTable,
    Snapshot,
    Spot,
    Subnet,
    TableAssociation,
    Volume,
    Vpc,
}

/// Kind, prefix of identifiers, name in ARNs, stem of error codes, what the complaint calls it.
type Row = (Kind, &'static str, &'static str, (&'static str, &'static str), &'static str);

const ROWS: [Row; 20] = [
    (
        Kind::Address,
        "eipalloc-",
        "elastic-ip",
        ("InvalidAllocationID.NotFound", "InvalidParameterValue"),
        "allocation ID",
    ),
    (
        Kind::Attachment,
        "eni-attach-",
        "",
        ("InvalidAttachmentID.NotFound", "InvalidAttachmentID.Malformed"),
        "attachment ID",
    ),
    (Kind::Association, "eipassoc-", "", ("InvalidAssociationID.NotFound", "InvalidParameterValue"), "association ID"),
    (
        Kind::Dhcp,
        "dopt-",
        "dhcp-options",
        ("InvalidDhcpOptionsID.NotFound", "InvalidDhcpOptionsId.Malformed"),
        "dhcpOptions ID",
    ),
    (Kind::Fleet, "fleet-", "fleet", ("InvalidFleetId.NotFound", "InvalidFleetId.Malformed"), "fleet ID"),
    (
        Kind::Gateway,
        "igw-",
        "internet-gateway",
        ("InvalidInternetGatewayID.NotFound", "InvalidInternetGatewayId.Malformed"),
        "internetGateway ID",
    ),
    (Kind::Group, "sg-", "security-group", ("InvalidGroup.NotFound", "InvalidGroupId.Malformed"), "security group"),
    (
        Kind::GroupRule,
        "sgr-",
        "security-group-rule",
        ("InvalidSecurityGroupRuleId.NotFound", "InvalidSecurityGroupRuleId.Malformed"),
        "security group rule ID",
    ),
    (Kind::Image, "ami-", "image", ("InvalidAMIID.NotFound", "InvalidAMIID.Malformed"), "image id"),
    (Kind::Instance, "i-", "instance", ("InvalidInstanceID.NotFound", "InvalidInstanceID.Malformed"), "instance ID"),
    (
        Kind::Interface,
        "eni-",
        "network-interface",
        ("InvalidNetworkInterfaceID.NotFound", "InvalidNetworkInterfaceId.Malformed"),
        "networkInterface ID",
    ),
    (
        Kind::LaunchTemplate,
        "lt-",
        "launch-template",
        ("InvalidLaunchTemplateId.NotFound", "InvalidLaunchTemplateId.Malformed"),
        "launch template ID",
    ),
    (
        Kind::Reservation,
        "r-",
        "",
        ("InvalidReservationID.NotFound", "InvalidReservationID.Malformed"),
        "reservation ID",
    ),
    (
        Kind::RouteTable,
        "rtb-",
        "route-table",
        ("InvalidRouteTableID.NotFound", "InvalidRouteTableId.Malformed"),
        "routeTable ID",
    ),
    (Kind::Snapshot, "snap-", "snapshot", ("InvalidSnapshot.NotFound", "InvalidSnapshotID.Malformed"), "snapshot"),
    (
        Kind::Spot,
        "sir-",
        "spot-instances-request",
        ("InvalidSpotInstanceRequestID.NotFound", "InvalidSpotInstanceRequestID.Malformed"),
        "spot instance request ID",
    ),
    (Kind::Subnet, "subnet-", "subnet", ("InvalidSubnetID.NotFound", "InvalidSubnetId.Malformed"), "subnet ID"),
    (
        Kind::TableAssociation,
        "rtbassoc-",
        "",
        ("InvalidAssociationID.NotFound", "InvalidRouteTableAssociationId.Malformed"),
        "association ID",
    ),
    (Kind::Volume, "vol-", "volume", ("InvalidVolume.NotFound", "InvalidVolumeID.Malformed"), "volume"),
    (Kind::Vpc, "vpc-", "vpc", ("InvalidVpcID.NotFound", "InvalidVpcId.Malformed"), "vpc ID"),
];

impl Kind {
    fn row(self) -> &'static Row {
        ROWS.iter().find(|row| row.0 == self).expect("every kind has a row, which a test checks")
    }

    /// What identifiers begin with.
    pub(crate) fn prefix(self) -> &'static str {
        self.row().1
    }

    /// Its name in ARNs, filters and tag specifications.
    pub(crate) fn word(self) -> &'static str {
        self.row().2
    }

    /// The kind whose identifiers begin like `id`.
    pub(crate) fn of(id: &str) -> Option<Self> {
        let (prefix, _) = id.rsplit_once('-')?;
        ROWS.iter().find(|row| row.1.strip_suffix('-') == Some(prefix)).map(|row| row.0)
    }

    /// The kind with this name in tables (its prefix without the dash) or in tag specifications.
    pub(crate) fn named(name: &str) -> Option<Self> {
        ROWS.iter().find(|row| row.1.strip_suffix('-') == Some(name) || row.2 == name).map(|row| row.0)
    }

    /// Whether `id` is written as identifiers of this kind are.
    pub(crate) fn check(self, id: &str) -> Result<(), AwsError> {
        let hex = |text: &str| [8, 17].contains(&text.len()) && text.bytes().all(|b| b"0123456789abcdef".contains(&b));
        match id.strip_prefix(self.prefix()) {
            Some(rest) if hex(rest) => Ok(()),
            // A fleet's identifier is a UUID.
            Some(rest) if self == Self::Fleet && rest.len() == 36 => Ok(()),
            _ => {
                let message = format!("Invalid id: \"{id}\" (expecting \"{}...\")", self.prefix());
                Err(refuse(self.row().3.1, message))
            }
        }
    }

    /// There is no such thing.
    pub(crate) fn missing(self, id: &str) -> AwsError {
        refuse(self.row().3.0, format!("The {} '{id}' does not exist", self.row().4))
    }
}

/// Numbers that look random and come again from the same seed.
#[derive(Clone, Debug)]
pub(crate) struct Ids(u64);

impl Ids {
    pub(crate) fn new(seed: u64) -> Self {
        Self(mix(seed))
    }

    /// The next number.
    pub(crate) fn number(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        mix(self.0)
    }

    /// `digits` hexadecimal digits, at most 32.
    pub(crate) fn hex(&mut self, digits: usize) -> String {
        let mut text = format!("{:016x}{:016x}", self.number(), self.number());
        text.truncate(digits);
        text
    }

    /// An identifier of `kind`; `0` first, as AWS has them.
    pub(crate) fn id(&mut self, kind: Kind) -> String {
        format!("{}0{}", kind.prefix(), self.hex(16))
    }

    /// A UUID of version 4.
    pub(crate) fn uuid(&mut self) -> String {
        let hex = self.hex(32);
        format!("{}-{}-4{}-a{}-{}", &hex[..8], &hex[8..12], &hex[13..16], &hex[17..20], &hex[20..])
    }

    /// `length` capital letters and digits, as access keys have.
    pub(crate) fn letters(&mut self, length: usize) -> String {
        const ALPHABET: &[u8; 32] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZ234567";
        (0..length).map(|_| char::from(ALPHABET[usize::try_from(self.number() % 32).unwrap_or(0)])).collect()
    }
}

/// Spreads the bits of a number (the finaliser of splitmix64).
pub(crate) fn mix(mut bits: u64) -> u64 {
    bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    bits ^ (bits >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_has_its_row_and_is_found_by_its_identifiers() {
        let mut ids = Ids::new(1);
        for row in &ROWS {
            let id = ids.id(row.0);
            assert_eq!(Kind::of(&id), Some(row.0), "{id}");
            assert_eq!(row.0.check(&id), Ok(()));
            assert_eq!(id.len(), row.1.len() + 17);
        }
    }

    #[test]
    fn forms_are_checked() {
        for (kind, id, good) in [
            (Kind::Instance, "i-0123456789abcdef0", true),
            (Kind::Instance, "i-01234567", true),
            (Kind::Instance, "i-0123456789ABCDEF0", false),
            (Kind::Instance, "i-123", false),
            (Kind::Instance, "vol-0123456789abcdef0", false),
            (Kind::Volume, "vol-0123456789abcdef0", true),
        ] {
            assert_eq!(kind.check(id).is_ok(), good, "{id}");
        }
        assert_eq!(Kind::Instance.check("x").unwrap_err().code, "InvalidInstanceID.Malformed");
        assert_eq!(Kind::Volume.missing("vol-1").code, "InvalidVolume.NotFound");
    }

    #[test]
    fn a_seed_gives_its_names_again() {
        let (mut one, mut two) = (Ids::new(7), Ids::new(7));
        assert_eq!(one.uuid(), two.uuid());
        assert_ne!(one.uuid(), one.uuid());
        assert_eq!(one.letters(16).len(), 16);
    }
}
