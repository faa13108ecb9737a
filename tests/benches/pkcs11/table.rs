//! The figures, and how they are shown.

use std::collections::HashMap;

use super::peers::{ECHO, EMBEDDED, KRYOPTIC, NSS, P11_KIT, PRIMITIVE, REMOTE, SOFTHSM};
use super::timing::{Figure, THREADS};

/// The best figures of all rounds, by row and peer.
#[derive(Default)]
pub struct Table {
    /// In the order in which they came first.
    pub rows: Vec<String>,
    figures: HashMap<(String, &'static str), Figure>,
}

impl Table {
    pub fn enter(&mut self, peer: &'static str, figures: Vec<(String, Figure)>) {
        for (row, figure) in figures {
            if !self.rows.contains(&row) {
                self.rows.push(row.clone());
            }
            let best = self.figures.entry((row, peer)).or_insert(Figure::NONE);
            *best = best.best(figure);
        }
    }

    /// Microseconds; `None` if it was not measured or is not offered.
    pub fn median(&self, row: &str, peer: &'static str) -> Option<f64> {
        Some(self.figures.get(&(row.to_owned(), peer))?.median).filter(|median| median.is_finite())
    }

    /// Operations per second by [`THREADS`].
    pub fn rates(&self, row: &str, peer: &'static str) -> Option<[f64; THREADS.len()]> {
        Some(self.figures.get(&(row.to_owned(), peer))?.rates).filter(|rates| rates[0] > 0.0)
    }

    /// How many times as long as `other` this takes.
    pub fn ratio(&self, row: &str, peer: &'static str, other: &'static str) -> Option<f64> {
        Some(self.median(row, peer)? / self.median(row, other)?)
    }

    /// How many times as long as a message there and back, and the primitive, the remote HSM takes.
    pub fn remote_ratio(&self, row: &str) -> Option<f64> {
        let floor = self.median(row, ECHO)? + self.median(row, PRIMITIVE)?;
        Some(self.median(row, REMOTE)? / floor)
    }

    /// Prints all that was measured.
    pub fn print(&self) {
        println!(
            "\nOne operation in microseconds, one thread, median of the best round; n/a: not offered or not measured"
        );
        println!("/y: how many times as long as y the first column takes");
        heading(&[EMBEDDED, SOFTHSM, KRYOPTIC, NSS, PRIMITIVE, "/SoftHSM2", "/kryoptic", "/NSS"]);
        for row in &self.rows {
            print!("{row:<26}");
            cells([EMBEDDED, SOFTHSM, KRYOPTIC, NSS, PRIMITIVE].map(|peer| self.median(row, peer)));
            cells([SOFTHSM, KRYOPTIC, NSS].map(|peer| self.ratio(row, EMBEDDED, peer)));
            println!();
        }
        println!();
        heading(&[REMOTE, P11_KIT, ECHO, PRIMITIVE, "/p11-kit", "/(echo+pr.)"]);
        for row in &self.rows {
            print!("{row:<26}");
            cells([REMOTE, P11_KIT, ECHO, PRIMITIVE].map(|peer| self.median(row, peer)));
            cells([self.ratio(row, REMOTE, P11_KIT), self.remote_ratio(row)]);
            println!();
        }
        println!("\nOperations per second of all threads together, best round");
        print!("{:<26}{:<10}", "", "threads");
        THREADS.iter().for_each(|threads| print!("{threads:>12}"));
        println!();
        for row in &self.rows {
            for peer in [EMBEDDED, REMOTE, SOFTHSM, KRYOPTIC, NSS, P11_KIT] {
                let Some(rates) = self.rates(row, peer).filter(|rates| rates[1] > 0.0) else { continue };
                print!("{row:<26}{peer:<10}");
                rates.iter().for_each(|rate| print!("{rate:>12.0}"));
                println!();
            }
        }
    }
}

fn heading(names: &[&str]) {
    print!("{:<26}", "");
    names.iter().for_each(|name| print!("{name:>12}"));
    println!();
}

fn cells<const N: usize>(values: [Option<f64>; N]) {
    for value in values {
        match value {
            Some(value) => print!("{value:>12.2}"),
            None => print!("{:>12}", "n/a"),
        }
    }
}
