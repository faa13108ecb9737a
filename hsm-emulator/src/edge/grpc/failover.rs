//! `hsm.failover.v1.Failover`: the pair, for its operators.

use std::sync::Arc;

use hsm_proto::failover;
use serde_json::json;
use tonic::{Request, Response, Status};

use crate::edge::pair::certificates::Credentials;
use crate::edge::pair::{self, Line};
use crate::edge::server::API_KEY;
use crate::services::failover::checks::{self, Check, UnitReport};
use crate::services::failover::history::Relation;
use crate::services::failover::pair::{Bond, Partner, Role};
use crate::services::failover::pairing::{Error, Pairing};

/// The service.
#[derive(Clone)]
pub struct FailoverService {
    line: Arc<Line>,
}

impl FailoverService {
    /// On this line.
    pub fn new(line: Arc<Line>) -> Self {
        Self { line }
    }

    /// Takes a step, and tells how the pair is then.
    async fn step<T: Send + 'static>(
        &self,
        step: impl FnOnce(&Arc<Pairing>) -> Result<T, Error> + Send + 'static,
    ) -> Result<Response<failover::Status>, Status> {
        pair::run(&self.line.pairing, step).await.map_err(|error| pair::status(&error))?;
        Ok(Response::new(self.status().await?))
    }

    /// How the pair is.
    pub async fn status(&self) -> Result<failover::Status, Status> {
        let here = pair::run(&self.line.pairing, |pairing| pair::description(pairing)).await;
        let here = here.map_err(|error| pair::status(&error))?;
        let asked = pair::describe(&self.line, 0).await;
        let (there, silent) = match asked {
            Ok(answer) => (answer.description, String::new()),
            Err(problem) => (None, problem),
        };
        let gate = self.line.pairing.keystore().gate();
        let mine = self.line.pairing.pair().ok_or_else(|| pair::status(&Error::NotPaired))?;
        let (lag, connected) = match mine.role {
            Role::Primary => (here.head.saturating_sub(gate.acknowledged_revision()), gate.is_followed()),
            Role::Failover => {
                let behind = there.as_ref().map_or(0, |there| there.head.saturating_sub(here.head));
                (behind, self.line.problem().is_empty() && there.is_some())
            }
        };
        let mut status = failover::Status {
            connected,
            lag,
            set_aside: self.line.pairing.set_aside(),
            problem: if silent.is_empty() { self.line.problem() } else { silent },
            ..failover::Status::default()
        };
        if let Some(there) = &there {
            self.compare(&mut status, &here, there).await?;
        }
        let units: Vec<UnitReport> =
            here.units.iter().chain(there.iter().flat_map(|there| &there.units)).map(report).collect();
        let synchronised = match (mine.bond, &there) {
            (_, None) => Err(format!("the other region does not answer: {}", status.problem)),
            (Bond::Joined, _) if connected => Ok("every acknowledged change is in both regions".to_owned()),
            (Bond::Detached, _) => Err("the regions are detached".to_owned()),
            _ => Err(format!("the failover region is catching up; {lag} positions are left")),
        };
        let message =
            |Check { name, passed, detail }| failover::Check { name: name.to_owned(), passed, detail };
        status.checks = checks::check(&units, synchronised).into_iter().map(message).collect();
        (status.here, status.partner) = (Some(here), there);
        Ok(status)
    }

    /// If both have gone on alone: what they have done.
    async fn compare(
        &self,
        status: &mut failover::Status,
        here: &failover::Description,
        there: &failover::Description,
    ) -> Result<(), Status> {
        let (ours, theirs) = (pair::history(here.epochs.clone()), pair::history(there.epochs.clone()));
        let Relation::Diverged(since) = ours.relation(here.head, &theirs, there.head) else { return Ok(()) };
        status.problem = Error::Diverged(since).to_string();
        let changed =
            pair::run(&self.line.pairing, move |pairing| pairing.changed_since(since, MAX_DIFFERENCES));
        status.changed_here = pair::differences(changed.await.map_err(|error| pair::status(&error))?);
        // 0 would ask for nothing.
        let answer = pair::describe(&self.line, since.max(1)).await.map_err(Status::unavailable)?;
        status.changed_there = answer.changed;
        Ok(())
    }
}

#[tonic::async_trait]
impl failover::failover_server::Failover for FailoverService {
    async fn get_status(
        &self,
        _: Request<failover::GetStatusRequest>,
    ) -> Result<Response<failover::Status>, Status> {
        Ok(Response::new(self.status().await?))
    }

    async fn invite(
        &self,
        _: Request<failover::InviteRequest>,
    ) -> Result<Response<failover::InviteResponse>, Status> {
        if self.line.address.is_empty() {
            return Err(Status::failed_precondition(
                "this server has no pairing listener: start it with --pair-listen ADDRESS",
            ));
        }
        // One key opens both regions, as one account's key does at the real service.
        let api_key = std::fs::read_to_string(self.line.dir.join(API_KEY));
        let api_key =
            api_key.map_err(|error| Status::internal(format!("the API key cannot be read: {error}")))?;
        let theirs = Credentials::generate().map_err(|error| Status::internal(error.to_string()))?;
        let partner = Partner {
            region: String::new(),
            address: String::new(),
            certificate: theirs.certificate.clone(),
        };
        let identity = pair::run(&self.line.pairing, move |pairing| {
            pairing.invite(partner)?;
            Ok(pairing.region().identity().clone())
        });
        let identity = identity.await.map_err(|error| pair::status(&error))?;
        let invitation = json!({
            "api_key": api_key.trim(),
            "primary": self.line.address,
            "primary_region": identity.region.clone(),
            "primary_certificate": self.line.credentials.certificate,
            "certificate": theirs.certificate,
            "key": theirs.key(),
            "identity": identity,
        });
        Ok(Response::new(failover::InviteResponse { invitation: invitation.to_string() }))
    }

    async fn promote(
        &self,
        request: Request<failover::PromoteRequest>,
    ) -> Result<Response<failover::Status>, Status> {
        let force = request.into_inner().force;
        self.step(move |pairing| pairing.promote(force)).await
    }

    async fn detach(
        &self,
        _: Request<failover::DetachRequest>,
    ) -> Result<Response<failover::Status>, Status> {
        self.step(|pairing| pairing.detach()).await
    }

    async fn attach(
        &self,
        request: Request<failover::AttachRequest>,
    ) -> Result<Response<failover::Status>, Status> {
        let give_up = request.into_inner().give_up_changes;
        self.step(move |pairing| if give_up { pairing.give_up_changes() } else { pairing.attach() }).await
    }

    async fn switch_over(
        &self,
        _: Request<failover::SwitchOverRequest>,
    ) -> Result<Response<failover::Status>, Status> {
        self.step(|pairing| pairing.switch_over()).await
    }

    async fn dissolve(
        &self,
        _: Request<failover::DissolveRequest>,
    ) -> Result<Response<failover::DissolveResponse>, Status> {
        let dissolved = pair::run(&self.line.pairing, |pairing| pairing.dissolve());
        dissolved.await.map_err(|error| pair::status(&error))?;
        Ok(Response::new(failover::DissolveResponse {}))
    }
}

fn report(unit: &failover::UnitDescription) -> UnitReport {
    UnitReport {
        location: unit.location.clone(),
        serial: unit.serial_number.clone(),
        unit_type: unit.r#type.clone(),
        state: unit.state.clone(),
        signature_threshold: unit.signature_threshold,
        revocation_threshold: unit.revocation_threshold,
        administrators: unit.administrators.clone(),
        control_points: unit.control_points.clone(),
        current_master_key: unit.current_master_key.clone(),
        new_master_key: unit.new_master_key,
    }
}

/// Records that are listed when two regions have gone on alone.
const MAX_DIFFERENCES: usize = 1000;
