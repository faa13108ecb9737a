//! `cryptounits`, `cryptounit-add`, `cryptounit-rm`: which crypto units there are, and which commands go to.

use crate::cli::Units;
use crate::error::{Error, Result};
use crate::table::{Cell, Table};
use crate::workstation::Workstation;

/// Prints the units.
pub fn list(workstation: &mut Workstation) {
    let header = [
        ("API endpoint:", workstation.connection.endpoint().to_owned()),
        ("Region:", workstation.region.clone()),
        ("User:", "API key".to_owned()),
        ("Account:", format!("emulator ({})", workstation.account)),
        ("Resource group:", "Default".to_owned()),
    ];
    let output = &workstation.desk.output;
    for (label, value) in header {
        output.line(&format!("{label:<18}{value}"));
    }
    output.line(&format!("\nSERVICE INSTANCE: {}", workstation.instance));
    let table = table(workstation);
    table.lines().iter().for_each(|line| workstation.desk.output.line(line));
    record(workstation);
    workstation.desk.output.line(
        "\nNote: all operational crypto units of a service instance must have the same configuration.\nUse 'tke \
         cryptounit-compare' to check it.",
    );
}

/// The units in the JSON document, as they are selected now.
pub fn record(workstation: &mut Workstation) {
    let table = table(workstation);
    let output = &mut workstation.desk.output;
    output.set("service_instance", workstation.instance.as_str());
    output.set("crypto_units", table.to_json());
}

fn table(workstation: &Workstation) -> Table {
    let mut table = Table::new(&["CRYPTO UNIT NUM", "SELECTED", "TYPE", "LOCATION"]);
    for unit in &workstation.units {
        table.push(vec![
            Cell::Number(unit.number),
            Cell::Flag(unit.selected),
            Cell::Text(unit.unit_type.to_uppercase()),
            Cell::Text(unit.location.clone()),
        ]);
    }
    table
}

/// Adds to the selection.
pub fn add(workstation: &mut Workstation, units: &Units) -> Result<()> {
    change(workstation, units, "Enter a list of CRYPTO UNIT NUM to add, separated by spaces:", true)
}

/// Takes out of the selection.
pub fn remove(workstation: &mut Workstation, units: &Units) -> Result<()> {
    change(workstation, units, "Enter a list of CRYPTO UNIT NUM to remove, separated by spaces:", false)
}

fn change(workstation: &mut Workstation, units: &Units, question: &str, selected: bool) -> Result<()> {
    list(workstation);
    workstation.desk.output.line("");
    let numbers = workstation.desk.prompt.numbers(question, units.units.as_deref(), "--units")?;
    let chosen: Vec<usize> =
        numbers.iter().map(|number| find(workstation, *number)).collect::<Result<_>>()?;
    workstation.select(&chosen, selected)?;
    workstation.desk.output.line("OK\n");
    list(workstation);
    Ok(())
}

/// The place of the unit with this CRYPTO UNIT NUM.
pub fn find(workstation: &Workstation, number: u64) -> Result<usize> {
    let found = workstation.units.iter().position(|unit| unit.number == number);
    found.ok_or_else(|| Error::new(format!("There is no crypto unit {number}. See 'tke cryptounits'.")))
}
