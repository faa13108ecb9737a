//! `hsm-emulator failover`: pairs of regions.

use std::fs;
use std::io::IsTerminal;
use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};
use hsm_emulator::durable_file;
use hsm_emulator::edge::pair::certificates::{Credentials, PAIR_DIR};
use hsm_emulator::edge::server::API_KEY;
use hsm_emulator::services::failover::history::History;
use hsm_emulator::services::failover::pair::{Bond, Pair, Partner, Role};
use hsm_emulator::services::region::{Identity, Region};
use hsm_proto::failover;
use hsm_proto::failover::failover_client::FailoverClient;
use serde::Deserialize;
use serde_json::{Value, json};
use tonic::service::interceptor::InterceptedService;
use tonic::transport::Channel;
use zeroize::Zeroizing;

use super::remote::{Authorization, Remote};
use super::{Error, Pretty, SharedKeystore, message};

/// What can be done about a pair.
#[derive(Subcommand)]
pub enum Failover {
    /// Make this region the primary one of a pair, and write an invitation for the other region. Keep it like a key.
    Invite {
        #[command(flatten)]
        remote: Remote,
        /// Where to write it.
        #[arg(long)]
        out: PathBuf,
    },
    /// Make a new directory the failover region of a pair, with somebody's invitation. Then serve it.
    Join(Join),
    /// Show the pair and the failover checks. Exits with 1 unless all are green.
    Status {
        #[command(flatten)]
        remote: Remote,
    },
    /// Give the primary role to this region, when the primary one is lost.
    Promote {
        #[command(flatten)]
        remote: Remote,
        /// Also if the primary region is alive, or this one may not be up to date: changes that were acknowledged may
        /// be set aside.
        #[arg(long)]
        force: bool,
    },
    /// Hand the primary role to the other region without a gap: run it in the primary one.
    Switchover {
        #[command(flatten)]
        remote: Remote,
    },
    /// Let the primary region go on alone while the other one is lost. What it acknowledges from then on is lost with it.
    Detach {
        #[command(flatten)]
        remote: Remote,
    },
    /// Bring the regions together again after 'detach': run it in the primary one.
    Attach {
        #[command(flatten)]
        remote: Remote,
        /// Run where the changes are to be given up that were made while both regions were alone: they are set aside
        /// in a file, and this region follows the other one.
        #[arg(long)]
        give_up_changes: bool,
    },
    /// Forget the partner for good: run it in the primary region.
    Dissolve {
        #[command(flatten)]
        remote: Remote,
        /// Do it.
        #[arg(long)]
        yes: bool,
    },
}

/// What a new failover region needs.
#[derive(Args)]
pub struct Join {
    /// Directory of the new region.
    #[arg(long)]
    state: PathBuf,
    /// Where it is.
    #[arg(long, default_value = "us-east")]
    region: String,
    /// What 'failover invite' has written.
    #[arg(long)]
    invitation: PathBuf,
    #[command(flatten)]
    keystore: SharedKeystore,
}

#[derive(Deserialize)]
struct Invitation {
    primary: String,
    primary_region: String,
    primary_certificate: String,
    certificate: String,
    key: Zeroizing<String>,
    api_key: Zeroizing<String>,
    identity: Identity,
}

/// Runs a command.
///
/// # Errors
/// With a sentence that says what to do.
pub async fn run(action: Failover) -> Result<(), Error> {
    match action {
        Failover::Invite { remote, out } => {
            let mut client = client(&remote).await?;
            if out.exists() {
                return Err(format!("{}: there is such a file already", out.display()).into());
            }
            let answer = client.invite(failover::InviteRequest {}).await.map_err(message)?;
            let invitation = Zeroizing::new(answer.into_inner().invitation);
            durable_file::replace(&out, invitation.as_bytes())
                .map_err(|e| format!("{}: {e}", out.display()))?;
            if remote.json {
                println!("{}", json!({ "invitation": out }).pretty());
            } else {
                println!("This region is the primary one of a pair. For the other one, in a new directory:");
                println!(
                    "  hsm-emulator failover join --state DIR --region us-east --invitation {}",
                    out.display()
                );
                println!("  hsm-emulator serve --state DIR --pair-listen 127.0.0.1:0 --listen 127.0.0.1:0");
                println!("Delete the invitation then: whoever has it may join in its place.");
            }
            Ok(())
        }
        Failover::Join(join) => join.run(),
        Failover::Status { remote } => {
            let answer = client(&remote).await?.get_status(failover::GetStatusRequest {}).await;
            let status = answer.map_err(message)?.into_inner();
            show(&remote, &status);
            if status.checks.iter().all(|check| check.passed) { Ok(()) } else { Err(NOT_READY.into()) }
        }
        Failover::Promote { remote, force } => {
            let answer = client(&remote).await?.promote(failover::PromoteRequest { force }).await;
            show(&remote, &answer.map_err(message)?.into_inner());
            Ok(())
        }
        Failover::Switchover { remote } => {
            let answer = client(&remote).await?.switch_over(failover::SwitchOverRequest {}).await;
            show(&remote, &answer.map_err(message)?.into_inner());
            Ok(())
        }
        Failover::Detach { remote } => {
            let answer = client(&remote).await?.detach(failover::DetachRequest {}).await;
            show(&remote, &answer.map_err(message)?.into_inner());
            Ok(())
        }
        Failover::Attach { remote, give_up_changes } => {
            let answer = client(&remote).await?.attach(failover::AttachRequest { give_up_changes }).await;
            show(&remote, &answer.map_err(message)?.into_inner());
            Ok(())
        }
        Failover::Dissolve { remote, yes } => {
            if !yes {
                return Err("the pair would be dissolved for good; to do it, add --yes".into());
            }
            client(&remote).await?.dissolve(failover::DissolveRequest {}).await.map_err(message)?;
            println!("This region has no partner any more.");
            Ok(())
        }
    }
}

async fn client(
    remote: &Remote,
) -> Result<FailoverClient<InterceptedService<Channel, Authorization>>, Error> {
    let (channel, authorization) = remote.channel().await?;
    Ok(FailoverClient::with_interceptor(channel, authorization))
}

impl Join {
    fn run(self) -> Result<(), Error> {
        let text = Zeroizing::new(
            fs::read_to_string(&self.invitation)
                .map_err(|e| format!("{}: {e}", self.invitation.display()))?,
        );
        let invitation: Invitation = serde_json::from_str(&text)
            .map_err(|e| format!("{}: this is no invitation: {e}", self.invitation.display()))?;
        if self.region == invitation.primary_region {
            return Err(
                format!("--region: the primary region is in {} too; a pair needs two", self.region).into()
            );
        }
        check_empty(&self.state)?;
        let credentials = Credentials::new(invitation.certificate, invitation.key);
        credentials.store(&self.state.join(PAIR_DIR))?;
        durable_file::replace(&self.state.join(API_KEY), invitation.api_key.as_bytes())?;
        let pair = Pair {
            region: self.region.clone(),
            identity: invitation.identity,
            role: Role::Failover,
            bond: Bond::Joining,
            history: History::default(),
            partner: Partner {
                region: invitation.primary_region.clone(),
                address: invitation.primary,
                certificate: invitation.primary_certificate,
            },
            gives_up: false,
        };
        Region::join(&self.state, &self.keystore.location(&self.state), &pair)?;
        println!(
            "{} is the failover region of {}. Serve it with --pair-listen; it has no crypto units yet: assign them with \
             'tke failover-enable' in the primary region.",
            self.region, invitation.primary_region
        );
        Ok(())
    }
}

fn check_empty(dir: &Path) -> Result<(), Error> {
    match fs::read_dir(dir).map(|mut entries| entries.next().is_none()) {
        Ok(false) => Err(format!("{}: a failover region begins in an empty directory", dir.display()).into()),
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(format!("{}: {error}", dir.display()).into())
        }
        _ => Ok(()),
    }
}

fn show(remote: &Remote, status: &failover::Status) {
    if remote.json {
        println!("{}", json(status).pretty());
        return;
    }
    println!("{:<10} {:<10} {:<9} {:>6} {:>20}", "REGION", "ROLE", "BOND", "EPOCH", "LAST CHANGE");
    for region in status.here.iter().chain(&status.partner) {
        let epoch = region.epochs.last().map_or(0, |epoch| epoch.number);
        println!(
            "{:<10} {:<10} {:<9} {epoch:>6} {:>20}",
            region.region, region.role, region.bond, region.head
        );
    }
    if !status.problem.is_empty() {
        println!("\n{}", status.problem);
    }
    for (place, changed) in [("here", &status.changed_here), ("there", &status.changed_there)] {
        if !changed.is_empty() {
            println!("\nChanged {place} since the regions were separated:");
            changed.iter().for_each(|record| println!("  {:<24} {}", record.kind, record.id));
        }
    }
    if !status.set_aside.is_empty() {
        println!("\nChanges set aside in this region, under set-aside in its directory:");
        status.set_aside.iter().for_each(|name| println!("  {name}"));
    }
    println!("\nFAILOVER CHECKS");
    let colours = std::io::stdout().is_terminal();
    for check in &status.checks {
        let (word, colour) = if check.passed { ("ok", "32") } else { ("FAILED", "31") };
        let word = format!("{word:<6}");
        let word = if colours { format!("\x1b[{colour}m{word}\x1b[0m") } else { word };
        println!("{word}  {:<31}  {}", check.name, check.detail);
    }
}

fn json(status: &failover::Status) -> Value {
    let region = |region: &failover::Description| {
        json!({
            "region": region.region, "role": region.role, "bond": region.bond, "head": region.head,
            "epoch": region.epochs.last().map_or(0, |epoch| epoch.number),
        })
    };
    let records = |records: &[failover::Difference]| -> Value {
        records.iter().map(|record| json!({ "kind": record.kind, "id": record.id })).collect()
    };
    json!({
        "here": status.here.as_ref().map(region),
        "partner": status.partner.as_ref().map(region),
        "problem": status.problem,
        "connected": status.connected,
        "lag": status.lag,
        "set_aside": status.set_aside,
        "changed_here": records(&status.changed_here),
        "changed_there": records(&status.changed_there),
        "checks": status.checks.iter().map(|check| {
            json!({ "name": check.name, "passed": check.passed, "detail": check.detail })
        }).collect::<Value>(),
    })
}

const NOT_READY: &str = "not all failover checks are green";
