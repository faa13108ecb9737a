//! What a command asks for. Everything but a password may be given by a flag instead.

use std::collections::VecDeque;
use std::io::{self, IsTerminal, Write};
use std::path::PathBuf;

use hsm_emulator::secret_input;
use zeroize::Zeroizing;

use super::error::{Error, Result};

/// The operator, or the files that answer for one.
pub struct Prompt {
    yes: bool,
    /// Standard output holds a JSON document, or nobody sees it.
    to_standard_error: bool,
    passwords: Option<VecDeque<Zeroizing<String>>>,
}

impl Prompt {
    /// With `--yes`, `--json` and the files of `--password-file`: a password in each line, in the order in which
    /// they are asked for.
    ///
    /// # Errors
    /// If a file cannot be read.
    pub fn new(yes: bool, json: bool, password_files: &[PathBuf]) -> Result<Self> {
        let mut passwords = VecDeque::new();
        for path in password_files {
            let text = secret_input::read(path)?;
            passwords.extend(text.lines().map(|line| Zeroizing::new(line.to_owned())));
        }
        let passwords = (!password_files.is_empty()).then_some(passwords);
        let redirected = !io::stdout().is_terminal() && io::stdin().is_terminal();
        Ok(Self { yes, to_standard_error: json || redirected, passwords })
    }

    /// Lines of password files that nothing has asked for.
    pub fn unused(&self) -> usize {
        self.passwords.iter().flatten().filter(|password| !password.is_empty()).count()
    }

    /// A line of text, unless a flag has given it.
    ///
    /// # Errors
    /// If nobody answers.
    pub fn text(&self, question: &str, given: Option<&str>, flag: &str) -> Result<String> {
        if let Some(given) = given {
            return Ok(given.trim().to_owned());
        }
        self.show(question)?;
        let mut line = String::new();
        match io::stdin().read_line(&mut line) {
            Ok(0) | Err(_) => Err(Error::new(format!("Nobody answers. Give {flag} instead."))),
            Ok(_) => Ok(line.trim().to_owned()),
        }
    }

    /// Numbers, separated by spaces.
    ///
    /// # Errors
    /// If something else is given.
    pub fn numbers(&self, question: &str, given: Option<&str>, flag: &str) -> Result<Vec<u64>> {
        let text = self.text(question, given, flag)?;
        let mut numbers = Vec::new();
        for word in text.split([' ', ',']).filter(|word| !word.is_empty()) {
            let number = word.parse().map_err(|_| Error::new(format!("{word:?} is not a number.")))?;
            if numbers.contains(&number) {
                return Err(Error::new(format!("{number} is there twice.")));
            }
            numbers.push(number);
        }
        Ok(numbers)
    }

    /// One number.
    ///
    /// # Errors
    /// If something else is given.
    pub fn number(&self, question: &str, given: Option<u64>, flag: &str) -> Result<u64> {
        let given = given.map(|number| number.to_string());
        let text = self.text(question, given.as_deref(), flag)?;
        text.parse().map_err(|_| Error::new(format!("{text:?} is not a number.")))
    }

    /// Goes on only after a y.
    ///
    /// # Errors
    /// [`Error::Cancelled`].
    pub fn confirm(&self, warning: &str) -> Result<()> {
        let given = self.yes.then_some("y");
        let answer = self.text(&format!("{warning}\nAnswer [y/N]:"), given, "--yes")?;
        if matches!(answer.as_str(), "y" | "Y" | "yes") { Ok(()) } else { Err(Error::Cancelled) }
    }

    /// Goes on after the Enter key.
    ///
    /// # Errors
    /// If nobody is there.
    pub fn pause(&self) -> Result<()> {
        let given = self.yes.then_some("");
        self.text("Press enter to continue or Ctrl-c to exit.", given, "--yes").map(drop)
    }

    /// A secret, not shown while it is typed.
    ///
    /// # Errors
    /// If nobody answers.
    pub fn password(&mut self, question: &str) -> Result<Zeroizing<String>> {
        let Some(passwords) = &mut self.passwords else {
            return secret_input::ask(question).map_err(|error| match error {
                secret_input::Error::NoTerminal => Error::new(format!(
                    "There is no terminal to ask for a password. Give --password-file instead:\n{question}"
                )),
                other => other.into(),
            });
        };
        passwords.pop_front().ok_or_else(|| {
            Error::new(format!("--password-file has no more lines, but this is asked:\n{question}"))
        })
    }

    /// A new secret, asked for twice.
    ///
    /// # Errors
    /// If both differ, or nothing is given.
    pub fn new_password(&mut self, question: &str) -> Result<Zeroizing<String>> {
        let password = self.password(question)?;
        if password.is_empty() {
            return Err(Error::new("The password is empty."));
        }
        if self.passwords.is_none() && *self.password("Re-enter the password to confirm:")? != *password {
            return Err(Error::new("The passwords are not the same."));
        }
        Ok(password)
    }

    fn show(&self, question: &str) -> Result<()> {
        let write = |mut out: Box<dyn Write>| write!(out, "{question}\n> ").and_then(|()| out.flush());
        let shown = if self.to_standard_error {
            write(Box::new(io::stderr()))
        } else {
            write(Box::new(io::stdout()))
        };
        shown.map_err(|error| Error::new(format!("The question cannot be shown: {error}")))
    }
}
