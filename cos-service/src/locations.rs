//! Where a bucket's data would lie, by its location constraint `LOCATION-CLASS`, and which root keys that admits.

use crate::error::{Error, Result};

/// How far a bucket's data is spread.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Resiliency {
    /// Three zones of one metro; also whatever is not known.
    Regional,
    /// Three metros of the United States.
    UsCrossRegion,
    /// Three metros elsewhere.
    OtherCrossRegion,
    /// One data centre.
    SingleSite,
}

impl Resiliency {
    /// Of a location constraint; an empty one means the default, which is regional.
    pub fn of(constraint: &str) -> Self {
        let location = constraint.rsplit_once('-').map_or(constraint, |(location, _)| location);
        match location {
            "us" => Self::UsCrossRegion,
            "eu" | "ap" => Self::OtherCrossRegion,
            _ if SINGLE_SITES.contains(&location) => Self::SingleSite,
            _ => Self::Regional,
        }
    }

    /// May a bucket there be under a root key of an HSM? Of one in the US cross region, the HSM's failover region must be
    /// able to take over too.
    ///
    /// # Errors
    /// 400 where the real service has no such buckets.
    pub fn needs_failover(self) -> Result<bool> {
        match self {
            Self::Regional => Ok(false),
            Self::UsCrossRegion => Ok(true),
            Self::OtherCrossRegion => Err(Error::invalid_request(
                "The region provided in the KMS key CRN does not provide cross region support.",
            )),
            Self::SingleSite => {
                Err(Error::invalid_request("Server Side Encryption with hs-crypto is not enabled."))
            }
        }
    }
}

const SINGLE_SITES: [&str; 8] = ["ams03", "che01", "mil01", "mon01", "mum01", "par01", "sjc04", "sng01"];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_location_decides_not_the_beginning_of_its_name() {
        for (constraint, expected) in [
            ("", Resiliency::Regional),
            ("us-south-standard", Resiliency::Regional),
            ("us-east-smart", Resiliency::Regional),
            ("us-standard", Resiliency::UsCrossRegion),
            ("us-onerate_active", Resiliency::UsCrossRegion),
            ("eu-vault", Resiliency::OtherCrossRegion),
            ("eu-de-vault", Resiliency::Regional),
            ("ap-cold", Resiliency::OtherCrossRegion),
            ("ams03-standard", Resiliency::SingleSite),
        ] {
            assert_eq!(Resiliency::of(constraint), expected, "{constraint}");
        }
        assert!(!Resiliency::Regional.needs_failover().unwrap());
        assert!(Resiliency::UsCrossRegion.needs_failover().unwrap());
        assert_eq!(Resiliency::SingleSite.needs_failover().unwrap_err().status, 400);
    }
}
