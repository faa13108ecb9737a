//! What a command prints: text for people, or one JSON document.

use std::io::{self, Write};

use serde_json::{Map, Value};

use super::table::Table;

/// Collects the JSON document; prints text at once.
pub struct Output {
    document: Option<Map<String, Value>>,
}

impl Output {
    /// JSON or text.
    pub fn new(json: bool) -> Self {
        Self { document: json.then(Map::new) }
    }

    /// For people only.
    pub fn line(&self, text: &str) {
        if self.document.is_none() {
            print(text);
        }
    }

    /// How far a long command is: on standard error if standard output holds a document.
    pub fn progress(&self, text: &str) {
        if self.document.is_none() {
            print(text);
        } else {
            writeln!(io::stderr(), "{text}").ok();
        }
    }

    /// For programs only.
    pub fn set(&mut self, name: &str, value: impl Into<Value>) {
        if let Some(document) = &mut self.document {
            document.insert(name.to_owned(), value.into());
        }
    }

    /// A table, with its name in the document.
    pub fn table(&mut self, name: &str, table: &Table) {
        table.lines().iter().for_each(|line| self.line(line));
        self.set(name, table.to_json());
    }

    /// The end of a command that succeeded.
    pub fn finish(self) {
        if let Some(document) = self.document {
            print_document(&document.into());
        }
    }
}

/// The document of a command.
pub fn print_document(document: &Value) {
    print(&format!("{document:#}"));
}

/// A reader who has gone does not undo what a command has done.
fn print(text: &str) {
    writeln!(io::stdout(), "{text}").ok();
}
