//! `hsm-emulator unit`: what takes a support case at the real service, and faults.

use std::time::Duration;

use clap::{Args, Subcommand};
use hsm_proto::tke;
use hsm_proto::tke::tke_client::TkeClient;
use serde_json::{Value, json};
use tonic::{Response, Status};

use super::remote::Remote;
use super::{Error, Pretty, duration, message};

/// What can be done with crypto units.
#[derive(Subcommand)]
pub enum Unit {
    /// List the crypto units.
    List {
        #[command(flatten)]
        remote: Remote,
    },
    /// Install a crypto unit: in imprint mode, with empty registers.
    Add {
        #[command(flatten)]
        remote: Remote,
        /// operational or recovery.
        #[arg(long = "type", value_enum, default_value_t = NewUnitType::Operational)]
        unit_type: NewUnitType,
        /// As before a firmware update: no control points are set.
        #[arg(long)]
        old_firmware: bool,
    },
    /// Take a crypto unit out for good, and erase its state.
    Remove(OneUnit),
    /// Power a crypto unit off; it stays so over a restart.
    Stop(OneUnit),
    /// Power a crypto unit on.
    Start(OneUnit),
    /// Break a crypto unit on purpose, to see what becomes of requests; --clear mends it.
    Fault(UnitFault),
}

#[derive(Args)]
#[command(after_help = "\
A request whose unit fails is made again in another one. A fault is over when the server is started again; a unit that was
zeroized needs administrators and its master key again.

Examples:
  hsm-emulator unit fault 3C7A10F2 --kind slow --delay 2s --state ~/hsm
  hsm-emulator unit fault 3C7A10F2 --clear --state ~/hsm")]
pub struct UnitFault {
    #[command(flatten)]
    unit: OneUnit,
    /// What is to go wrong.
    #[arg(long, value_enum, required_unless_present = "clear")]
    kind: Option<FaultKind>,
    /// For slow: how much longer each use of a key takes.
    #[arg(long, value_parser = duration, default_value = "500ms")]
    delay: Duration,
    /// Mend it.
    #[arg(long, conflicts_with_all = ["kind", "delay"])]
    clear: bool,
}

#[derive(Clone, Copy, clap::ValueEnum)]
pub enum FaultKind {
    /// It answers nothing, as if it had been pulled out.
    Disable,
    /// Somebody tampers with it: registers and administrators are erased for good.
    Zeroize,
    /// It takes longer; beyond 250 ms it is given up.
    Slow,
    /// Bits of its master key change by themselves.
    Corrupt,
}

#[derive(Clone, Copy, clap::ValueEnum)]
pub enum NewUnitType {
    Operational,
    Recovery,
}

#[derive(Args)]
pub struct OneUnit {
    #[command(flatten)]
    remote: Remote,
    /// HSM id or serial number, as the list shows them.
    unit: String,
}

/// Runs one.
pub async fn run(action: Unit) -> Result<(), Error> {
    match action {
        Unit::List { remote } => {
            let units = units(&remote).await?;
            show_units(&remote, &units);
            Ok(())
        }
        Unit::Add { remote, unit_type, old_firmware } => {
            let unit_type = match unit_type {
                NewUnitType::Operational => tke::UnitType::Operational,
                NewUnitType::Recovery => tke::UnitType::Recovery,
            };
            let request = tke::AddUnitRequest { r#type: unit_type.into(), old_firmware };
            show(&remote, remote.support().await?.add_unit(request).await)
        }
        Unit::Remove(one) => {
            let request = one.request().await?;
            show(&one.remote, one.remote.support().await?.remove_unit(request).await)
        }
        Unit::Stop(one) => {
            let request = one.request().await?;
            show(&one.remote, one.remote.support().await?.stop_unit(request).await)
        }
        Unit::Fault(fault) => {
            let kind = match fault.kind {
                None => tke::Fault::None,
                Some(FaultKind::Disable) => tke::Fault::Disabled,
                Some(FaultKind::Zeroize) => tke::Fault::Zeroized,
                Some(FaultKind::Slow) => tke::Fault::Slow,
                Some(FaultKind::Corrupt) => tke::Fault::Corrupt,
            };
            let request = tke::SetFaultRequest {
                hsm_id: fault.unit.request().await?.hsm_id,
                fault: kind.into(),
                delay_milliseconds: u32::try_from(fault.delay.as_millis()).unwrap_or(u32::MAX),
            };
            let remote = &fault.unit.remote;
            show(remote, remote.support().await?.set_fault(request).await)
        }
        Unit::Start(one) => {
            let request = one.request().await?;
            show(&one.remote, one.remote.support().await?.start_unit(request).await)
        }
    }
}

async fn units(remote: &Remote) -> Result<Vec<tke::Unit>, Error> {
    let (channel, authorization) = remote.channel().await?;
    let mut client = TkeClient::with_interceptor(channel, authorization);
    Ok(client.list_units(tke::ListUnitsRequest {}).await.map_err(message)?.into_inner().units)
}

fn show(remote: &Remote, answer: Result<Response<tke::Unit>, Status>) -> Result<(), Error> {
    show_units(remote, &[answer.map_err(message)?.into_inner()]);
    Ok(())
}

fn show_units(remote: &Remote, units: &[tke::Unit]) {
    let kind = |unit: &tke::Unit| match unit.r#type() {
        tke::UnitType::Unspecified => "unknown".to_owned(),
        known => known.as_str_name().to_lowercase(),
    };
    if remote.json {
        let json = units.iter().map(|unit| {
            json!({
                "hsm_id": unit.hsm_id, "serial_number": unit.serial_number, "type": kind(unit),
                "state": unit.state, "location": unit.location,
            })
        });
        println!("{}", Value::from_iter(json).pretty());
        return;
    }
    println!("{:<36}   {:<8}   {:<11}   {:<16}   LOCATION", "HSM ID", "SERIAL", "TYPE", "STATE");
    for unit in units {
        println!(
            "{:<36}   {:<8}   {:<11}   {:<16}   {}",
            unit.hsm_id,
            unit.serial_number,
            kind(unit),
            unit.state,
            unit.location
        );
    }
}

impl OneUnit {
    /// Finds the unit by its HSM id or serial number.
    async fn request(&self) -> Result<tke::UnitRequest, Error> {
        let units = units(&self.remote).await?;
        let found =
            units.into_iter().find(|unit| unit.hsm_id == self.unit || unit.serial_number == self.unit);
        let unit = found.ok_or_else(|| format!("{}: no such crypto unit; see 'unit list'", self.unit))?;
        Ok(tke::UnitRequest { hsm_id: unit.hsm_id })
    }
}
