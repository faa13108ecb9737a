//! `hsm.tke.v1`: administration of crypto units over gRPC.

use std::sync::Arc;
use std::time::Duration;

use hsm_proto::tke;
use hsm_proto::tke::support_client::SupportClient;
use hsm_proto::tke::tke_client::TkeClient;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Channel;
use tonic::{Request, Response, Status};

use crate::edge::pair::Line;
use crate::services::administration::{Administration, Error};
use crate::services::reencryption::Progress;
use crate::services::region::{self, InstalledUnit};
use crate::units::command::UnitType;
use crate::units::{Fault, VerificationPattern};

/// Both services.
#[derive(Clone)]
pub struct TkeService {
    administration: Arc<Administration>,
    /// The other region of the pair, whose units are administered here too.
    partner: Option<Arc<Line>>,
}

impl TkeService {
    /// On the units of this region.
    pub fn new(administration: Arc<Administration>) -> Self {
        Self { administration, partner: None }
    }

    /// On those of the other one too: what is for one of them is passed on.
    #[must_use]
    pub fn with_partner(&self, line: Arc<Line>) -> Self {
        Self { administration: self.administration.clone(), partner: Some(line) }
    }

    /// All crypto units, ordered by type.
    pub async fn units(&self) -> Vec<tke::Unit> {
        let local = self.administration.region().units();
        let mut units: Vec<_> = local.iter().map(|installed| self.message(installed)).collect();
        if let Some(partner) = &self.partner {
            units.extend(partner.partner_units().await);
            units.sort_by_key(|unit| (unit.r#type == tke::UnitType::Unspecified as i32, unit.r#type));
        }
        units
    }

    /// Hands a unit a command: [`Administration::submit`], or the other region's.
    ///
    /// # Errors
    /// As `hsm.tke.v1.Tke/Submit` has them.
    pub async fn submit_to(&self, hsm_id: String, request: Vec<u8>) -> Result<Vec<u8>, Status> {
        if let Some(channel) = self.elsewhere(&hsm_id).await {
            let answer = TkeClient::new(channel).submit(tke::SubmitRequest { hsm_id, request }).await?;
            return Ok(answer.into_inner().response);
        }
        self.run(move |administration| administration.submit(&hsm_id, &request)).await
    }

    /// To the other region, if the unit is there.
    async fn elsewhere(&self, hsm_id: &str) -> Option<Channel> {
        let partner = self.partner.as_ref()?;
        let is_here = self.administration.region().units().iter().any(|unit| unit.hsm_id == hsm_id);
        let is_there = async || partner.partner_units().await.iter().any(|unit| unit.hsm_id == hsm_id);
        if is_here || !is_there().await { None } else { partner.channel().await.ok() }
    }

    /// Runs a call that waits for the disk, away from the threads that answer the network.
    async fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Administration) -> Result<T, Error> + Send + 'static,
    ) -> Result<T, Status> {
        let administration = self.administration.clone();
        tokio::task::spawn_blocking(move || work(&administration))
            .await
            .map_err(|_| Status::internal("the call was interrupted"))?
            .map_err(|error| status(&error))
    }

    fn message(&self, installed: &InstalledUnit) -> tke::Unit {
        let unit_type = match installed.unit_type() {
            Some(UnitType::Operational) => tke::UnitType::Operational,
            Some(UnitType::Recovery) => tke::UnitType::Recovery,
            Some(UnitType::Failover) => tke::UnitType::Failover,
            None => tke::UnitType::Unspecified,
        };
        tke::Unit {
            hsm_id: installed.hsm_id.clone(),
            location: installed.unit.location(),
            r#type: unit_type.into(),
            state: self.administration.region().state_of(installed).to_owned(),
            serial_number: installed.unit.serial(),
        }
    }
}

#[tonic::async_trait]
impl tke::tke_server::Tke for TkeService {
    async fn list_units(
        &self,
        _: Request<tke::ListUnitsRequest>,
    ) -> Result<Response<tke::ListUnitsResponse>, Status> {
        let region = self.administration.region();
        let identity = region.identity();
        Ok(Response::new(tke::ListUnitsResponse {
            instance: identity.instance.clone(),
            account: identity.account.clone(),
            region: identity.region.clone(),
            units: self.units().await,
        }))
    }

    async fn submit(
        &self,
        request: Request<tke::SubmitRequest>,
    ) -> Result<Response<tke::SubmitResponse>, Status> {
        let tke::SubmitRequest { hsm_id, request } = request.into_inner();
        let response = self.submit_to(hsm_id, request).await?;
        Ok(Response::new(tke::SubmitResponse { response }))
    }

    type ReencryptStream = ReceiverStream<Result<tke::ReencryptProgress, Status>>;

    async fn reencrypt(
        &self,
        request: Request<tke::ReencryptRequest>,
    ) -> Result<Response<Self::ReencryptStream>, Status> {
        let request = request.into_inner();
        let pattern = pattern(&request.verification_pattern)?;
        let (sender, receiver) = mpsc::channel(PROGRESS_MESSAGES);
        let administration = self.administration.clone();
        tokio::task::spawn_blocking(move || {
            // A caller who has gone misses the messages; the work goes on.
            let report = |progress: &Progress| drop(sender.try_send(Ok(progress_message(progress))));
            let outcome = administration.reencrypt(&pattern, request.abandon_other, report);
            let last = match outcome {
                Ok(progress) => Ok(progress_message(&progress)),
                Err(error) => Err(status(&error)),
            };
            sender.blocking_send(last).ok();
        });
        Ok(Response::new(ReceiverStream::new(receiver)))
    }

    async fn get_reencryption(
        &self,
        _: Request<tke::GetReencryptionRequest>,
    ) -> Result<Response<tke::ReencryptProgress>, Status> {
        let progress =
            self.run(|administration| Ok(administration.region().reencryption_progress()?)).await?;
        Ok(Response::new(progress_message(&progress)))
    }

    async fn cancel_reencryption(
        &self,
        request: Request<tke::CancelReencryptionRequest>,
    ) -> Result<Response<tke::CancelReencryptionResponse>, Status> {
        let given_up = pattern(&request.into_inner().verification_pattern)?;
        let kept = self.run(move |administration| administration.cancel_reencryption(&given_up)).await?;
        Ok(Response::new(tke::CancelReencryptionResponse { verification_pattern: kept.to_hex() }))
    }
}

#[tonic::async_trait]
impl tke::support_server::Support for TkeService {
    async fn add_unit(&self, request: Request<tke::AddUnitRequest>) -> Result<Response<tke::Unit>, Status> {
        let request = request.into_inner();
        let unit_type = match request.r#type() {
            tke::UnitType::Operational => UnitType::Operational,
            tke::UnitType::Recovery => UnitType::Recovery,
            tke::UnitType::Failover => return self.add_failover_unit(request).await,
            tke::UnitType::Unspecified => {
                return Err(Status::invalid_argument("type: OPERATIONAL, RECOVERY or FAILOVER"));
            }
        };
        let unit = self.run(move |units| units.add_unit(unit_type, request.old_firmware)).await?;
        Ok(Response::new(self.message(&unit)))
    }

    async fn remove_unit(&self, request: Request<tke::UnitRequest>) -> Result<Response<tke::Unit>, Status> {
        if let Some(channel) = self.elsewhere(&request.get_ref().hsm_id).await {
            return SupportClient::new(channel).remove_unit(request.into_inner()).await;
        }
        let hsm_id = request.into_inner().hsm_id;
        Ok(Response::new(self.message(&self.run(move |units| units.remove_unit(&hsm_id)).await?)))
    }

    async fn stop_unit(&self, request: Request<tke::UnitRequest>) -> Result<Response<tke::Unit>, Status> {
        if let Some(channel) = self.elsewhere(&request.get_ref().hsm_id).await {
            return SupportClient::new(channel).stop_unit(request.into_inner()).await;
        }
        let hsm_id = request.into_inner().hsm_id;
        Ok(Response::new(self.message(&self.run(move |units| units.set_power(&hsm_id, false)).await?)))
    }

    async fn start_unit(&self, request: Request<tke::UnitRequest>) -> Result<Response<tke::Unit>, Status> {
        if let Some(channel) = self.elsewhere(&request.get_ref().hsm_id).await {
            return SupportClient::new(channel).start_unit(request.into_inner()).await;
        }
        let hsm_id = request.into_inner().hsm_id;
        Ok(Response::new(self.message(&self.run(move |units| units.set_power(&hsm_id, true)).await?)))
    }

    async fn set_fault(&self, request: Request<tke::SetFaultRequest>) -> Result<Response<tke::Unit>, Status> {
        if let Some(channel) = self.elsewhere(&request.get_ref().hsm_id).await {
            return SupportClient::new(channel).set_fault(request.into_inner()).await;
        }
        let request = request.into_inner();
        let fault = match request.fault() {
            tke::Fault::None => None,
            tke::Fault::Disabled => Some(Fault::Disabled),
            tke::Fault::Corrupt => Some(Fault::Corrupt),
            tke::Fault::Slow if (1..=MAX_DELAY).contains(&request.delay_milliseconds) => {
                Some(Fault::Slow(Duration::from_millis(request.delay_milliseconds.into())))
            }
            tke::Fault::Slow => {
                return Err(Status::invalid_argument("delay_milliseconds: from 1 to 60000"));
            }
            tke::Fault::Zeroized => {
                let unit = self.run(move |units| units.tamper(&request.hsm_id)).await?;
                return Ok(Response::new(self.message(&unit)));
            }
        };
        let unit = self.run(move |units| units.set_fault(&request.hsm_id, fault)).await?;
        Ok(Response::new(self.message(&unit)))
    }

    async fn delete_token(
        &self,
        request: Request<tke::DeleteTokenRequest>,
    ) -> Result<Response<tke::DeleteTokenResponse>, Status> {
        let serial = request.into_inner().serial;
        let objects = self.run(move |administration| administration.delete_token(&serial)).await?;
        Ok(Response::new(tke::DeleteTokenResponse { objects: objects as u64 }))
    }
}

impl TkeService {
    /// In the region that is not the instance's home.
    async fn add_failover_unit(&self, request: tke::AddUnitRequest) -> Result<Response<tke::Unit>, Status> {
        let region = self.administration.region();
        if region.place() != region.identity().region {
            let old_firmware = request.old_firmware;
            let unit = self.run(move |units| units.add_unit(UnitType::Failover, old_firmware)).await?;
            return Ok(Response::new(self.message(&unit)));
        }
        let no_partner = || {
            Status::failed_precondition(
                "failover crypto units stand in another region, and this one has no partner: make a pair with \
                 'hsm-emulator failover invite' and 'failover join'",
            )
        };
        let partner =
            self.partner.as_ref().filter(|line| line.pairing.pair().is_some()).ok_or_else(no_partner)?;
        let channel = partner.channel().await.map_err(Status::unavailable)?;
        SupportClient::new(channel).add_unit(request).await
    }
}

fn pattern(digits: &str) -> Result<VerificationPattern, Status> {
    VerificationPattern::from_hex(digits)
        .ok_or_else(|| Status::invalid_argument("verification_pattern: 64 hexadecimal digits"))
}

fn progress_message(progress: &Progress) -> tke::ReencryptProgress {
    tke::ReencryptProgress {
        done: progress.done,
        total: progress.total,
        left_out: progress.left_out,
        complete: progress.complete,
        verification_pattern: progress.pattern.map(|pattern| pattern.to_hex()).unwrap_or_default(),
    }
}

fn status(error: &Error) -> Status {
    let text = error.to_string();
    match error {
        Error::NotFound(_) | Error::NoToken(_) => Status::not_found(text),
        Error::Stopped(_) => Status::unavailable(text),
        Error::Damaged(_) => Status::data_loss(text),
        Error::TooLarge(_) => Status::invalid_argument(text),
        Error::Region(region::Error::OtherReencryption(_)) => Status::aborted(text),
        Error::Region(region::Error::Reencryption(_) | region::Error::UnitLimit(_)) => {
            Status::failed_precondition(text)
        }
        Error::Unit(unit) if unit.code == cryptoki_sys::CKR_ARGUMENTS_BAD => Status::invalid_argument(text),
        Error::Audit(_) => {
            tracing::error!(%error, "an administrative command was refused");
            Status::unavailable(text)
        }
        Error::Unit(_) | Error::Region(_) => {
            tracing::error!(%error, "an administrative call failed");
            Status::internal(text)
        }
    }
}

/// Progress messages that wait for a slow reader; more are dropped.
const PROGRESS_MESSAGES: usize = 64;
/// Of a slow unit, in milliseconds.
const MAX_DELAY: u32 = 60_000;
