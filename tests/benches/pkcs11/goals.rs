//! What the figures are to be, and whether they are.

use super::peers::{EMBEDDED, KRYOPTIC, NSS, P11_KIT, PRIMITIVE, REMOTE, SOFTHSM};
use super::rows::CREATE;
use super::table::Table;
use super::timing::THREADS;
use super::token::{OPENED, find_name};

/// Prints each goal, whether it holds, and the rows that miss it.
pub fn print(table: &Table) {
    println!("\nGoals");
    for peer in [EMBEDDED, REMOTE] {
        let refused = |row: &&String| table.median(row, peer).is_none();
        let refused: Vec<_> = table.rows.iter().filter(refused).map(String::as_str).collect();
        say(&format!("{peer}: every row is offered"), Some(refused.is_empty()), &refused.join("; "));
    }
    for (name, peer, other) in [
        ("embedded: faster than SoftHSM2 in every row", EMBEDDED, SOFTHSM),
        ("embedded: faster than kryoptic in every row", EMBEDDED, KRYOPTIC),
        ("remote: faster than p11-kit's remoting in every row", REMOTE, P11_KIT),
    ] {
        below(name, 1.0, table.rows.iter().map(|row| (row.as_str(), table.ratio(row, peer, other))));
    }
    let mut ratios: Vec<f64> =
        table.rows.iter().filter_map(|row| table.ratio(row, SOFTHSM, EMBEDDED)).collect();
    ratios.sort_by(f64::total_cmp);
    let median = ratios.get(ratios.len() / 2).copied();
    let times = median.map_or("not measured".to_owned(), |median| format!("{median:.1} times"));
    say(
        "embedded: 3 times as fast as SoftHSM2 in the median row",
        median.map(|median| median >= 3.0),
        &times,
    );
    below(
        "embedded: within 1.5 times NSS for small symmetric operations",
        1.5,
        SMALL_SYMMETRIC.iter().map(|row| (*row, table.ratio(row, EMBEDDED, NSS))),
    );
    for peer in [EMBEDDED, REMOTE] {
        let loss = |row: &String| {
            let rates = table.rates(row, peer).filter(|rates| rates[THREADS.len() - 1] > 0.0)?;
            Some(rates[0] / rates[THREADS.len() - 1])
        };
        let name = format!("{peer}: no row slower with 4 threads than with 1");
        below(&name, 1.0, table.rows.iter().map(|row| (row.as_str(), loss(row))));
    }
    for by in ["label", "subject"] {
        let row = find_name(by, 10_000);
        let name = format!("embedded: {row}, under 100 us");
        below(&name, 100.0, [(row.as_str(), table.median(&row, EMBEDDED))]);
    }
    let create = table.ratio(CREATE, EMBEDDED, PRIMITIVE);
    below("embedded: token object create within 2 times a durable write", 2.0, [(CREATE, create)]);
    below(
        "remote: within 1.3 times (echo + primitive)",
        1.3,
        table.rows.iter().map(|row| (row.as_str(), table.remote_ratio(row))),
    );
    for (count, limit) in [(0, 2000.0), (10_000, 50_000.0)] {
        let row = start_name(OPENED, count);
        let name = format!("embedded: {row}, under {} ms", limit / 1000.0);
        below(&name, limit, [(row.as_str(), table.median(&row, EMBEDDED))]);
    }
}

/// A row for each number of objects that a process starts up with.
pub fn start_name(what: &str, count: usize) -> String {
    format!("{what}, {count}")
}

/// A goal that each of these figures is below a limit; those that are not there are left out.
fn below<'a>(name: &str, limit: f64, figures: impl IntoIterator<Item = (&'a str, Option<f64>)>) {
    let figures: Vec<(&str, f64)> =
        figures.into_iter().filter_map(|(row, figure)| Some((row, figure?))).collect();
    let missed: Vec<_> = figures.iter().filter(|(_, figure)| *figure > limit).collect();
    let rows =
        missed.iter().map(|(row, figure)| format!("{row} ({figure:.2})")).collect::<Vec<_>>().join("; ");
    say(name, (!figures.is_empty()).then_some(missed.is_empty()), &rows);
}

fn say(name: &str, holds: Option<bool>, detail: &str) {
    let verdict = match holds {
        Some(true) => "holds",
        Some(false) => "MISSED",
        None => "not measured",
    };
    println!("{verdict:<14}{name}{}{detail}", if detail.is_empty() { "" } else { ": " });
}

const SMALL_SYMMETRIC: [&str; 5] =
    ["random 32 B", "SHA-256 64 B", "HMAC-SHA-256 64 B", "AES-GCM 32 B", "AES key wrap 32 B"];
