//! The follower's side of the line between two regions.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use hsm_proto::failover::pair_client::PairClient;
use hsm_proto::failover::{self, from_follower, from_primary};
use tokio::sync::mpsc;
use tokio::time::{interval, sleep, timeout};
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Channel;

use super::primary::sign_of_life;
use super::{Line, messages, run};
use crate::services::failover::pair::{Bond, Role};
use crate::services::failover::pairing::{Error, Intake};

/// What a region does about its partner, for as long as the server runs.
pub async fn keep_pair(line: Arc<Line>) {
    let mut steps = line.steps.subscribe();
    let mut last = String::new();
    loop {
        steps.borrow_and_update();
        let outcome = match line.pairing.pair() {
            Some(pair) if pair.role == Role::Failover => follow(&line).await,
            Some(pair) if !pair.partner.address.is_empty() => look_for_a_newer_primary(&line).await,
            _ => Ok(()),
        };
        match outcome {
            Ok(()) => last.clear(),
            Err(error) => {
                line.set_problem(&error);
                // Once, not twenty times a minute.
                if error != last {
                    tracing::warn!(error, "the other region cannot be followed");
                    last = error;
                }
            }
        }
        if let Err(error) = promote_after_silence(&line).await {
            tracing::error!(%error, "this region cannot be promoted");
        }
        tokio::select! {
            () = sleep(RETRY) => {}
            _ = steps.changed() => {}
        }
    }
}

/// Before a region serves: it may have been replaced while it was away, and would use keys that were deleted since. One
/// that nobody contradicts in time serves.
pub async fn step_down_if_replaced(line: &Arc<Line>) {
    let was_primary =
        line.pairing.pair().is_some_and(|pair| pair.role == Role::Primary && pair.bond == Bond::Joined);
    if was_primary && let Ok(Err(problem)) = timeout(line.silence, look_for_a_newer_primary(line)).await {
        tracing::warn!(
            problem,
            "nobody says whether this region has been replaced: it serves as the primary one"
        );
    }
}

/// Follows until the line breaks.
async fn follow(line: &Arc<Line>) -> Result<(), String> {
    let address = line.address.clone();
    let hello =
        run(&line.pairing, move |pairing| pairing.hello(&address)).await.map_err(|e| e.to_string())?;
    let head = hello.head;
    let mut client = client(line).await?;
    let (outgoing, requests) = mpsc::channel(MESSAGES);
    let hello = from_follower::Message::Hello(messages::from_hello(hello));
    outgoing.try_send(failover::FromFollower { message: Some(hello), joined: false }).ok();
    let answer = timeout(line.silence, client.follow(ReceiverStream::new(requests)));
    let mut incoming = answer
        .await
        .map_err(|_| SILENT.to_owned())?
        .map_err(|status| status.message().to_owned())?
        .into_inner();

    // Until the primary says from where, nothing counts as held.
    let acknowledged = Arc::new(AtomicU64::new(0));
    let joined = Arc::new(AtomicBool::new(false));
    let say = move |revision, joined| failover::FromFollower {
        message: Some(from_follower::Message::Acknowledged(revision)),
        joined,
    };
    let (beat, beat_acknowledged, beat_joined) = (outgoing.clone(), acknowledged.clone(), joined.clone());
    let silence = line.silence;
    // A follower that is busy with its disk is alive.
    let beat = tokio::spawn(async move {
        let mut ticks = interval(sign_of_life(silence));
        loop {
            ticks.tick().await;
            let joined = beat_joined.load(Ordering::Acquire);
            let sign = say(beat_acknowledged.load(Ordering::Acquire), joined);
            if beat.send(sign).await.is_err() {
                return;
            }
        }
    });
    let mut intake: Option<Intake> = None;
    let mut steps = line.steps.subscribe();
    let end = loop {
        // Promoted by an operator, it must not look like a follower any longer.
        steps.borrow_and_update();
        if line.pairing.pair().is_none_or(|pair| pair.role != Role::Failover) {
            break Ok(());
        }
        let received = tokio::select! {
            received = timeout(line.silence, incoming.message()) => received,
            _ = steps.changed() => continue,
        };
        let message = match received {
            Err(_) => break Err(SILENT.to_owned()),
            Ok(Err(status)) => break Err(status.message().to_owned()),
            Ok(Ok(None)) => break Err("the primary region has gone".to_owned()),
            Ok(Ok(Some(message))) => message.message,
        };
        line.pairing.hear();
        use from_primary::Message;
        let step = match (message, &mut intake) {
            (Some(message), Some(intake)) if intake.is_midway() && !goes_with_a_series(&message) => {
                Err(Error::Refused("the primary region broke off a series of changes".to_owned()))
            }
            (Some(Message::Welcome(welcome)), slot @ None) => {
                let welcome = messages::to_welcome(welcome);
                let from = if welcome.reset_from.is_some() { 0 } else { head };
                run(&line.pairing, move |pairing| pairing.follow(welcome)).await.map(|begun| {
                    *slot = Some(begun);
                    acknowledged.store(from, Ordering::Release);
                    line.clear_problem();
                    false
                })
            }
            (Some(Message::Piece(piece)), slot @ Some(_)) => {
                let mut taking = slot.take();
                let taken = run(&line.pairing, move |_| {
                    let revision =
                        taking.as_mut().map(|intake| intake.take(&messages::to_piece(piece))).transpose();
                    Ok((taking, revision?.flatten()))
                });
                match taken.await {
                    Ok((taking, revision)) => {
                        *slot = taking;
                        if let Some(revision) = revision {
                            acknowledged.store(revision, Ordering::Release);
                            outgoing.send(say(revision, joined.load(Ordering::Acquire))).await.ok();
                        }
                        Ok(false)
                    }
                    Err(error) => Err(error),
                }
            }
            (Some(Message::Joined(_)), Some(_)) => match run(&line.pairing, |pairing| pairing.joined()).await
            {
                Ok(()) => {
                    joined.store(true, Ordering::Release);
                    outgoing.send(say(acknowledged.load(Ordering::Acquire), true)).await.ok();
                    Ok(false)
                }
                Err(error) => Err(error),
            },
            (Some(Message::HandOver(failover::HandOver { head })), Some(_)) => {
                run(&line.pairing, move |pairing| pairing.take_over(head)).await.map(|_| true)
            }
            (Some(Message::Detached(_)), _) => match run(&line.pairing, |pairing| pairing.left_alone()).await
            {
                Ok(()) => break Err(Error::Detached.to_string()),
                Err(error) => Err(error),
            },
            (Some(Message::Alive(_)), _) => Ok(false),
            _ => Err(Error::Refused("the primary region said something out of turn".to_owned())),
        };
        match step {
            Ok(false) => {}
            Ok(true) => break Ok(()),
            Err(error) => break Err(error.to_string()),
        }
    };
    beat.abort();
    end
}

/// Whatever else a primary says makes this region write, and the series keeps it from that.
fn goes_with_a_series(message: &from_primary::Message) -> bool {
    matches!(message, from_primary::Message::Piece(_) | from_primary::Message::Alive(_))
}

/// A primary that nobody follows may have been replaced.
async fn look_for_a_newer_primary(line: &Arc<Line>) -> Result<(), String> {
    if line.pairing.keystore().gate().is_followed() {
        line.clear_problem();
        return Ok(());
    }
    let theirs = describe(line, 0).await?.description.ok_or("the other region does not say how it is")?;
    let is_primary = theirs.role == Role::Primary.label();
    let (history, head) = (messages::history(theirs.epochs), theirs.head);
    if is_primary
        && !run(&line.pairing, move |p| p.step_down(&history, head)).await.map_err(|e| e.to_string())?
    {
        return Err("both regions have the primary role: see 'hsm-emulator failover status'".to_owned());
    }
    Ok(())
}

async fn promote_after_silence(line: &Arc<Line>) -> Result<(), Error> {
    let Some(limit) = line.promote_after else { return Ok(()) };
    let due =
        line.pairing.pair().is_some_and(|pair| pair.role == Role::Failover && pair.bond == Bond::Joined);
    if due && line.pairing.silence() >= limit {
        // It may be this region that was away, or was busy; then its connection has died meanwhile, which says nothing.
        let asked = Instant::now();
        for _ in 0..ATTEMPTS {
            if asked.elapsed() >= line.silence {
                break;
            }
            line.forget_channel();
            let theirs = describe(line, 0).await.ok().and_then(|answer| answer.description);
            if theirs.is_some_and(|theirs| theirs.role == Role::Primary.label()) {
                line.pairing.hear();
                return Ok(());
            }
            sleep(RETRY).await;
        }
        tracing::warn!(silence = ?line.pairing.silence(), "the primary region has been silent for too long");
        run(&line.pairing, |pairing| pairing.promote(false)).await?;
    }
    Ok(())
}

/// How the other region is.
pub async fn describe(line: &Line, changed_since: u64) -> Result<failover::DescribeResponse, String> {
    let mut client = client(line).await?;
    let answer = timeout(line.silence, client.describe(failover::DescribeRequest { changed_since }));
    let answer = answer.await.map_err(|_| SILENT.to_owned())?;
    Ok(answer.map_err(|status| status.message().to_owned())?.into_inner())
}

async fn client(line: &Line) -> Result<PairClient<Channel>, String> {
    let channel = line.channel().await?;
    Ok(PairClient::new(channel).max_decoding_message_size(super::MAX_MESSAGE_BYTES))
}

const SILENT: &str = "the other region does not answer";
/// To reach a primary region before it is replaced.
const ATTEMPTS: u32 = 3;
const RETRY: Duration = Duration::from_millis(100);
const MESSAGES: usize = 64;
