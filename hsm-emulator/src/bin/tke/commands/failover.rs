//! `failover-enable`: crypto units in another region.

use crate::cli::FailoverEnable;
use crate::error::{Error, Result};
use crate::workstation::Workstation;

use super::units;

/// Assigns failover crypto units, up to the number that is wanted in all.
pub fn enable(workstation: &mut Workstation, wanted: &FailoverEnable) -> Result<()> {
    if workstation.units.iter().any(|unit| !unit.selected) {
        return Err(Error::new(
            "Not all crypto units of the service instance are selected.\nSelect them with 'tke cryptounit-add'.",
        ));
    }
    let count =
        |unit_type| workstation.units.iter().filter(|unit| unit.unit_type == unit_type).count() as u64;
    let (operational, assigned) = (count("operational"), count("failover"));
    let output = &workstation.desk.output;
    output.line(&format!("Failover crypto units assigned:        {assigned}"));
    output.line(&format!("Operational crypto units:              {operational}"));
    output.line(&format!("Maximum of failover crypto units:      {operational}\n"));
    if assigned >= operational {
        return Err(Error::new("The service instance has as many failover crypto units as it may have."));
    }
    let least = FEWEST.max(assigned + 1);
    let question = format!("Enter the total number of failover crypto units, {least} to {operational}:");
    let question = if least == operational {
        format!("Enter the total number of failover crypto units, {operational}:")
    } else {
        question
    };
    let total = workstation.desk.prompt.number(&question, wanted.units, "--units")?;
    if !(least..=operational).contains(&total) {
        return Err(Error::new(format!(
            "The total number of failover crypto units must be {least} to {operational}: at least {FEWEST}, and no \
             more than there are operational ones."
        )));
    }
    workstation.desk.prompt.confirm(
        "Warning: at the real service, failover crypto units are billed like operational ones. Here they cost \
         nothing.\nThey cannot be taken away again with tke.",
    )?;
    let mut added = Vec::new();
    for _ in assigned..total {
        added.push(workstation.connection.add_failover_unit()?);
    }
    workstation.desk.output.line("OK");
    let region = added.first().and_then(|unit| unit.location.split(['[', ']']).nth(1)).unwrap_or_default();
    workstation.desk.output.line(&format!("Backup region: {region}"));
    workstation.desk.output.line(&format!("Failover crypto units assigned: {}\n", added.len()));
    workstation.relist()?;
    units::list(workstation);
    workstation.desk.output.line(
        "\nThe new failover crypto units are in imprint mode. Initialise them now, like the operational ones and with \
         the same master key.\nSee 'tke help failover-enable'.",
    );
    Ok(())
}

/// One could not be serviced without a gap.
const FEWEST: u64 = 2;
