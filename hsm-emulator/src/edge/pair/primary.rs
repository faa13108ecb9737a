//! The primary's side of the line between two regions: it sends its change log to whoever follows.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use hsm_proto::failover::{self, from_follower, from_primary};
use tokio::sync::{mpsc, watch};
use tokio::time::{MissedTickBehavior, interval, timeout};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

use super::{Line, description, messages, run, status};
use crate::services::failover::pair::{Bond, Role};
use crate::services::failover::pairing::Error;

/// The service.
pub struct PairService {
    line: Arc<Line>,
    certificate: String,
}

impl PairService {
    /// On this line, for the partner with this certificate.
    pub fn new(line: Arc<Line>, certificate: String) -> Self {
        Self { line, certificate }
    }
}

type Outgoing = mpsc::Sender<Result<failover::FromPrimary, Status>>;

#[tonic::async_trait]
impl failover::pair_server::Pair for PairService {
    type FollowStream = ReceiverStream<Result<failover::FromPrimary, Status>>;

    async fn follow(
        &self,
        request: Request<Streaming<failover::FromFollower>>,
    ) -> Result<Response<Self::FollowStream>, Status> {
        let mut incoming = request.into_inner();
        let first = timeout(self.line.silence, incoming.message())
            .await
            .map_err(|_| Status::deadline_exceeded("no hello was said"))??;
        let Some(from_follower::Message::Hello(hello)) = first.and_then(|first| first.message) else {
            return Err(Status::invalid_argument("a follower says hello first"));
        };
        let hello = messages::to_hello(hello);
        let (region, head) = (hello.region.clone(), hello.head);
        let (outgoing, answer) = mpsc::channel(MESSAGES);
        let welcome = match run(&self.line.pairing, move |pairing| pairing.welcome(&hello)).await {
            Err(Error::Detached) => {
                let message = from_primary::Message::Detached(failover::Detached {});
                outgoing.try_send(Ok(messages::message(message))).ok();
                return Ok(Response::new(ReceiverStream::new(answer)));
            }
            outcome => outcome.map_err(|error| status(&error))?,
        };
        let from = if welcome.reset_from.is_some() { 0 } else { head };
        tracing::info!(region, from, reset = welcome.reset_from.is_some(), "the other region follows");

        outgoing.try_send(Ok(messages::from_welcome(&welcome))).ok();
        let connection = self.line.pairing.new_connection();
        self.line.pairing.keystore().gate().connect(connection, from);
        let certificate = self.certificate.clone();
        let sent = AtomicU64::new(from);
        let follower = Follower { line: self.line.clone(), certificate, connection, outgoing, from, sent };
        tokio::spawn(follower.serve(incoming));
        Ok(Response::new(ReceiverStream::new(answer)))
    }

    async fn describe(
        &self,
        request: Request<failover::DescribeRequest>,
    ) -> Result<Response<failover::DescribeResponse>, Status> {
        let since = request.into_inner().changed_since;
        let answer = run(&self.line.pairing, move |pairing| {
            let changed = match since {
                0 => Vec::new(),
                since => pairing.changed_since(since, super::MAX_DIFFERENCES)?,
            };
            Ok(failover::DescribeResponse {
                description: Some(description(pairing)?),
                changed: messages::differences(changed),
            })
        });
        Ok(Response::new(answer.await.map_err(|error| status(&error))?))
    }
}

/// A region that follows.
struct Follower {
    line: Arc<Line>,
    /// The partner's, when it began to follow.
    certificate: String,
    connection: u64,
    outgoing: Outgoing,
    from: u64,
    /// Nothing after this can be acknowledged.
    sent: AtomicU64,
}

impl Follower {
    /// Until one of the two is silent, or has gone.
    async fn serve(self, incoming: Streaming<failover::FromFollower>) {
        let (acknowledged, acknowledgements) = watch::channel(self.from);
        let end = tokio::select! {
            end = self.listen(incoming, acknowledged) => end.to_owned(),
            end = self.send(acknowledgements) => end,
        };
        self.line.pairing.keystore().gate().disconnect(self.connection);
        tracing::warn!(end, "the other region does not follow any more");
    }

    /// What ended it.
    async fn send(&self, mut acknowledgements: watch::Receiver<u64>) -> String {
        let mut commits = self.line.commits.subscribe();
        let mut steps = self.line.steps.subscribe();
        let mut alive = interval(sign_of_life(self.line.silence));
        alive.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut sent = self.from;
        // Of the last piece of each series on its way, and of the first series of all.
        let (mut under_way, mut first_series) = (VecDeque::new(), None);
        let (mut join_at, mut told) = (None, false);
        loop {
            commits.borrow_and_update();
            steps.borrow_and_update();
            let acknowledged = *acknowledgements.borrow_and_update();
            under_way.retain(|revision| *revision > acknowledged);
            let pair = self.line.pairing.pair();
            let bond = match pair.as_deref() {
                Some(pair) if pair.partner.certificate != self.certificate => {
                    return "it is not the partner any more".to_owned();
                }
                Some(pair) if pair.role == Role::Primary && pair.bond != Bond::Detached => pair.bond,
                Some(pair) if pair.role == Role::Failover => return self.hand_over().await,
                _ => {
                    self.say(from_primary::Message::Detached(failover::Detached {})).await;
                    return "it was detached".to_owned();
                }
            };
            while under_way.len() < SERIES_UNDER_WAY {
                let since = sent;
                let read = run(&self.line.pairing, move |pairing| Ok(pairing.keystore().piece(since)?)).await;
                let piece = match read {
                    Ok(piece) => piece,
                    Err(error) => return error.to_string(),
                };
                sent = piece.revision;
                self.sent.store(sent, Ordering::Release);
                if !piece.more {
                    first_series.get_or_insert(sent);
                }
                if piece.changes.is_empty() {
                    if !piece.more {
                        break;
                    }
                    // A long log of what has changed again since: the follower must not think that this side is gone.
                    self.say(from_primary::Message::Alive(failover::Alive {})).await;
                    continue;
                }
                if !piece.more {
                    under_way.push_back(sent);
                }
                if self.outgoing.send(Ok(messages::from_piece(piece))).await.is_err() {
                    return "it has gone".to_owned();
                }
            }
            // Writers who do not wait yet may be faster than the follower for ever: it has only to have come near.
            let is_near = first_series.is_some_and(|end| acknowledged >= end);
            if join_at.is_none() && (bond == Bond::Joined || is_near) {
                match run(&self.line.pairing, |pairing| pairing.join()).await {
                    Ok(head) => join_at = Some(head),
                    Err(error) => return error.to_string(),
                }
                continue;
            }
            if !told && join_at.is_some_and(|head| acknowledged >= head) {
                self.say(from_primary::Message::Joined(failover::Joined {})).await;
                told = true;
            }
            tokio::select! {
                _ = commits.changed() => {}
                _ = steps.changed() => {}
                changed = acknowledgements.changed() => if changed.is_err() { return "it has gone".to_owned() },
                _ = alive.tick() => self.say(from_primary::Message::Alive(failover::Alive {})).await,
            }
        }
    }

    /// Once this region follows, nothing of its own is written any more: where its log ends is where the role passes.
    async fn hand_over(&self) -> String {
        match run(&self.line.pairing, |pairing| Ok(pairing.keystore().head()?)).await {
            Ok(head) => {
                self.say(from_primary::Message::HandOver(failover::HandOver { head })).await;
                "the primary role was handed over to it".to_owned()
            }
            Err(error) => error.to_string(),
        }
    }

    /// What ended it.
    async fn listen(
        &self,
        mut incoming: Streaming<failover::FromFollower>,
        acknowledged: watch::Sender<u64>,
    ) -> &'static str {
        while let Ok(Ok(Some(message))) = timeout(self.line.silence, incoming.message()).await {
            let Some(from_follower::Message::Acknowledged(revision)) = message.message else {
                return "it said something out of turn";
            };
            if revision > self.sent.load(Ordering::Acquire) {
                return "it has acknowledged what it was never sent";
            }
            let gate = self.line.pairing.keystore().gate();
            if !gate.acknowledge(self.connection, revision, message.joined) {
                return "it follows by another connection";
            }
            if self.line.pairing.keys().holds_back() {
                let shown = run(&self.line.pairing, |pairing| {
                    pairing.keys().show_held_back().map_err(|error| Error::Refused(error.to_string()))
                });
                if let Err(error) = shown.await {
                    tracing::error!(%error, "new key material cannot be used yet, and will be tried again");
                }
            }
            acknowledged.send_if_modified(|known| {
                let news = *known < revision;
                *known = revision.max(*known);
                news
            });
        }
        "it is silent or has gone"
    }

    async fn say(&self, message: from_primary::Message) {
        // Whoever does not listen any more is found out by its silence.
        timeout(self.line.silence, self.outgoing.send(Ok(messages::message(message)))).await.ok();
    }
}

/// Messages that wait for the network: with the windows of HTTP/2 all that a slow follower costs.
const MESSAGES: usize = 4;
/// Series of pieces that the follower has not acknowledged. What comes meanwhile goes together into the next one, and
/// so into one transaction.
const SERIES_UNDER_WAY: usize = 2;
/// How often each side shows that it lives, in the time after which it would count as lost.
const SIGNS_OF_LIFE: u32 = 5;

/// Between two of them, for the follower's side too.
pub(super) fn sign_of_life(silence: Duration) -> Duration {
    silence / SIGNS_OF_LIFE
}
