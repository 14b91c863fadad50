//! The console shell: reads lines, carries out requests, prints answers. The language is `control`'s; here is only what
//! needs the running kernel.

mod attach;
mod datastores;
mod reports;
mod requests;
mod usage;

use crate::vm::inventory;
use crate::{console, datastore, input, storage, timer};
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use control::{Completion, Event, LineEditor, Names, Style, complete, parse, render, render_error};

const PROMPT: &str = "basalt> ";
const CTRL_C: u8 = 3;
/// Bytes that the console gets at a time: 22 ms at 115200 baud.
const CHUNK: usize = 256;
/// What others get between two chunks.
const CHUNK_NANOS: u64 = 500_000;

struct HostNames;

impl Names for HostNames {
    fn vms(&self) -> Vec<String> {
        inventory::with_records(|records| {
            records
                .iter()
                .map(|r| r.definition.name.to_string())
                .collect()
        })
    }

    fn files(&self) -> Vec<String> {
        inventory::files()
            .files()
            .map(|f| f.name.to_string())
            .filter(|n| n.starts_with("images/"))
            .collect()
    }

    fn datastores(&self) -> Vec<String> {
        datastore::names()
    }

    fn devices(&self) -> Vec<String> {
        let devices = storage::devices();
        devices.iter().map(|d| d.name().to_string()).collect()
    }
}

/// Runs the shell for ever.
pub async fn run() {
    print("\nBasalt: `help` lists the commands, `vm list` the virtual machines.\n").await;
    let mut editor = LineEditor::new(PROMPT);
    let mut out = Vec::new();
    editor.start(&mut out);
    flush(&mut out);
    loop {
        let byte = input::next_byte().await;
        let event = editor.feed(byte, &completion, &mut out);
        flush(&mut out);
        match event {
            Event::None => continue,
            Event::Line(line) => carry_out(&line).await,
            Event::Interrupt | Event::Eof => {}
        }
        editor.start(&mut out);
        flush(&mut out);
    }
}

fn completion(before: &str) -> Completion {
    complete(before, &HostNames)
}

fn flush(out: &mut Vec<u8>) {
    console::write(out);
    out.clear();
}

/// Prints text on the console, its line ends as a terminal wants them.
async fn print(text: &str) {
    let mut bytes = Vec::with_capacity(text.len() + 8);
    for byte in text.bytes() {
        if byte == b'\n' {
            bytes.push(b'\r');
        }
        bytes.push(byte);
    }
    show(&bytes).await;
}

/// Writes to the console, a chunk at a time: a real UART takes longer for a page of text than a poll may last.
async fn show(bytes: &[u8]) {
    for chunk in bytes.chunks(CHUNK) {
        console::write(chunk);
        if chunk.len() == CHUNK {
            timer::sleep(CHUNK_NANOS).await;
        }
    }
}

async fn carry_out(line: &str) {
    let json_wanted = line.split_ascii_whitespace().any(|w| w == "--json");
    let style = if json_wanted {
        Style::Json
    } else {
        Style::Colour
    };
    let answer = match parse(line) {
        Ok(None) => return,
        Ok(Some(command)) => requests::carry_out(command.request, style).await,
        Err(error) => Err(error.to_string()),
    };
    match answer {
        Ok(Some(response)) => print(&render(&response, style)).await,
        Ok(None) => {}
        Err(error) => print(&render_error(&error, style)).await,
    }
}

/// Sleeps until one of the `wanted` keys is typed, or so long; returns the key. Others are dropped.
async fn typed_within(nanos: u64, wanted: impl Fn(u8) -> bool) -> Option<u8> {
    let end = timer::host_nanos().saturating_add(nanos);
    while timer::host_nanos() < end {
        while let Some(byte) = console::read_byte() {
            if wanted(byte) {
                return Some(byte);
            }
        }
        let left = end.saturating_sub(timer::host_nanos());
        timer::sleep(left.min(50_000_000)).await;
    }
    None
}
