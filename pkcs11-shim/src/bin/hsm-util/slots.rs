//! Finding and showing slots.

use cryptoki::context::Pkcs11;
use cryptoki::slot::{Slot, TokenInfo};
use cryptoki::types::Version;

use crate::cli::Cli;
use crate::error::Error;
use crate::library::Library;

/// `--show-slots`.
pub fn show(library: &Library) -> Result<(), Error> {
    let pkcs11 = library.pkcs11();
    let slots = pkcs11.get_all_slots().map_err(|_| Error::new("Could not get the slot list."))?;
    println!("Available slots:");
    for slot in slots {
        let id = slot.id();
        let Ok(info) = pkcs11.get_slot_info(slot) else {
            eprintln!("ERROR: Could not get info about slot {id}.");
            continue;
        };
        println!("Slot {id}");
        println!("    Slot info:");
        println!("        Description:      {:<64}", info.slot_description());
        println!("        Manufacturer ID:  {:<32}", info.manufacturer_id());
        println!("        Hardware version: {}", Dotted(info.hardware_version()));
        println!("        Firmware version: {}", Dotted(info.firmware_version()));
        println!("        Token present:    {}", yes(info.token_present()));
        if info.token_present() {
            println!("    Token info:");
            match pkcs11.get_token_info(slot) {
                Ok(token) => show_token(&token),
                Err(_) => eprintln!("ERROR: Could not get info about the token in slot {id}."),
            }
        }
    }
    Ok(())
}

fn show_token(token: &TokenInfo) {
    println!("        Manufacturer ID:  {:<32}", token.manufacturer_id());
    println!("        Model:            {:<16}", token.model());
    println!("        Hardware version: {}", Dotted(token.hardware_version()));
    println!("        Firmware version: {}", Dotted(token.firmware_version()));
    println!("        Serial number:    {:<16}", token.serial_number());
    println!("        Initialized:      {}", yes(token.token_initialized()));
    println!("        User PIN init.:   {}", yes(token.user_pin_initialized()));
    println!("        Label:            {:<32}", token.label());
}

fn yes(answer: bool) -> &'static str {
    if answer { "yes" } else { "no" }
}

struct Dotted(Version);

impl std::fmt::Display for Dotted {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}.{}", self.0.major(), self.0.minor())
    }
}

/// The slot that the options name. `free_too`: may it be by `--free`?
pub fn find(library: &Library, cli: &Cli, free_too: bool) -> Result<Slot, Error> {
    if let Some(number) = &cli.slot {
        return numbered(number);
    }
    let free = free_too && cli.free;
    let wanted = Wanted::new(cli)?;
    let (or_free, comma_free) = if free_too { (", or --free", ", ") } else { ("", ", or ") };
    let Some(wanted) = wanted.or_else(|| free.then(Wanted::default)) else {
        return Err(Error::new(format!(
            "A slot/token must be supplied. Use --slot <number>, --serial <serial>{comma_free}--token <label>{or_free}"
        )));
    };
    let mut found = Vec::new();
    for (slot, token) in tokens(library.pkcs11())? {
        if free {
            if !token.token_initialized() {
                println!("Slot {} has a free/uninitialized token.", slot.id());
                return Ok(slot);
            }
        } else if wanted.is(token.serial_number(), token.label()) {
            println!("Found slot {} with matching {}.", slot.id(), wanted.what());
            found.push(slot);
        }
    }
    match *found {
        [slot] => Ok(slot),
        [] if free_too => Err(Error::new("Could not find a slot/token using --serial, --token, or --free.")),
        [] => Err(Error::new("Could not find a slot/token using --serial, or --token")),
        _ => Err(Error::new("Found multiple matching slots/tokens.")),
    }
}

/// The slot that now has this token.
pub fn find_token(library: &Library, known: &TokenInfo) -> Result<Slot, Error> {
    tokens(library.pkcs11())?
        .into_iter()
        .find(|(_, token)| token.serial_number() == known.serial_number() && token.label() == known.label())
        .map(|(slot, _)| slot)
        .ok_or_else(|| Error::new("Could not find a slot/token using --serial, or --token"))
}

/// A token by serial number, by label, or by both.
#[derive(Default)]
pub struct Wanted<'a> {
    serial: Option<&'a str>,
    label: Option<&'a str>,
}

impl<'a> Wanted<'a> {
    /// What `--serial` and `--token` want, if they are there. Blanks at the end are padding.
    pub fn new(cli: &'a Cli) -> Result<Option<Self>, Error> {
        let short = |name: &str, value: &'a Option<String>, max| match value.as_deref() {
            Some(value) if value.len() > max => Err(Error::new(format!("{name} is too long."))),
            value => Ok(value.map(|value| value.trim_end_matches(' '))),
        };
        let serial = short("--serial", &cli.serial, 16)?;
        let label = short("--token", &cli.token, 32)?;
        Ok((serial.is_some() || label.is_some()).then_some(Self { serial, label }))
    }

    /// Is it this token?
    pub fn is(&self, serial: &str, label: &str) -> bool {
        self.serial.is_none_or(|wanted| wanted == serial) && self.label.is_none_or(|wanted| wanted == label)
    }

    /// What it is searched by.
    pub fn what(&self) -> &'static str {
        match (self.serial, self.label) {
            (Some(_), Some(_)) => "serial and token label",
            (Some(_), None) => "serial",
            _ => "token label",
        }
    }
}

fn numbered(number: &str) -> Result<Slot, Error> {
    let number: i64 =
        number.trim().parse().map_err(|_| Error::new(format!("The slot {number:?} is not a number.")))?;
    u64::try_from(number)
        .ok()
        .and_then(|number| Slot::try_from(number).ok())
        .ok_or_else(|| Error::new("The slot number is negative."))
}

fn tokens(pkcs11: &Pkcs11) -> Result<Vec<(Slot, TokenInfo)>, Error> {
    let slots = pkcs11.get_slots_with_token().map_err(|_| Error::new("Could not get the slot list."))?;
    slots
        .into_iter()
        .map(|slot| match pkcs11.get_token_info(slot) {
            Ok(token) => Ok((slot, token)),
            Err(_) => Err(Error::new(format!("Could not get info about the token in slot {}.", slot.id()))),
        })
        .collect()
}
