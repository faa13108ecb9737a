//! `hsm-emulator token`: what there is to manage about PKCS #11 tokens without their PINs.

use clap::Subcommand;
use hsm_proto::tokens::request::Call;
use hsm_proto::tokens::response::Answer;
use hsm_proto::tokens::tokens_client::TokensClient;
use hsm_proto::{tke, tokens};
use serde_json::{Value, json};

use super::remote::Remote;
use super::{Error, Pretty, message};

/// What can be done with tokens.
#[derive(Subcommand)]
pub enum Token {
    /// List the tokens; needs no crypto unit.
    List {
        #[command(flatten)]
        remote: Remote,
    },
    /// Delete a token and all its objects for good, without its PINs: also if the master key that they are under is
    /// lost.
    Delete {
        #[command(flatten)]
        remote: Remote,
        /// As the list shows it.
        serial: String,
        /// Do it; without, nothing is deleted.
        #[arg(long)]
        yes: bool,
    },
}

/// Runs one.
pub async fn run(action: Token) -> Result<(), Error> {
    match action {
        Token::List { remote } => {
            let tokens = tokens(&remote).await?;
            show_tokens(&remote, &tokens);
            Ok(())
        }
        Token::Delete { remote, serial, yes } => {
            if !yes {
                return Err(format!(
                    "token {serial} and all its objects would be lost for good; to delete them, add --yes"
                )
                .into());
            }
            let request = tke::DeleteTokenRequest { serial: serial.clone() };
            let answer = remote.support().await?.delete_token(request).await.map_err(message)?;
            let objects = answer.into_inner().objects;
            if remote.json {
                println!("{}", json!({ "serial_number": serial, "objects": objects }).pretty());
            } else {
                println!("token {serial} is deleted, and its {objects} objects");
            }
            Ok(())
        }
    }
}

async fn tokens(remote: &Remote) -> Result<Vec<tokens::Token>, Error> {
    let (channel, authorization) = remote.channel().await?;
    let mut client = TokensClient::with_interceptor(channel, authorization);
    let list = tokens::Request { call: Some(Call::ListTokens(tokens::ListTokensRequest {})) };
    let mut answers = client.operate(tokio_stream::once(list)).await.map_err(message)?.into_inner();
    match answers.message().await.map_err(message)?.and_then(|response| response.answer) {
        Some(Answer::ListTokens(list)) => Ok(list.tokens),
        Some(Answer::Error(error)) => Err(error.detail.into()),
        _ => Err("the server's answer is not a list of tokens".into()),
    }
}

fn show_tokens(remote: &Remote, tokens: &[tokens::Token]) {
    if remote.json {
        let json = tokens.iter().map(|token| {
            json!({
                "serial_number": token.serial, "label": token.label,
                "user_pin_initialized": token.user_pin_initialized,
            })
        });
        println!("{}", Value::from_iter(json).pretty());
        return;
    }
    println!("{:<16}   {:<8}   LABEL", "SERIAL", "USER PIN");
    for token in tokens {
        let user_pin = if token.user_pin_initialized { "set" } else { "not set" };
        println!("{:<16}   {user_pin:<8}   {}", token.serial, token.label);
    }
}
