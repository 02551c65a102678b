//! QEMU's machine protocol: commands, and the events that come between their answers.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};

const LIMIT: Duration = Duration::from_secs(30);

pub(crate) struct Qmp {
    stream: BufReader<UnixStream>,
    events: Vec<Value>,
}

impl Qmp {
    pub(crate) fn open(stream: UnixStream) -> Result<Self> {
        stream.set_read_timeout(Some(LIMIT))?;
        let mut qmp = Self { stream: BufReader::new(stream), events: Vec::new() };
        qmp.message().context("QEMU does not greet")?;
        qmp.execute("qmp_capabilities", json!({}))?;
        Ok(qmp)
    }

    pub(crate) fn execute(&mut self, command: &str, arguments: Value) -> Result<Value> {
        let request = json!({ "execute": command, "arguments": arguments });
        let ours = self.stream.get_mut();
        writeln!(ours, "{request}").with_context(|| format!("QEMU does not take {command}"))?;
        loop {
            let mut message = self.message().with_context(|| format!("no answer to {command}"))?;
            if let Some(answer) = message.get_mut("return") {
                return Ok(answer.take());
            }
            if let Some(error) = message.get("error") {
                bail!("{command}: {}", error["desc"].as_str().unwrap_or("error without a text"));
            }
            self.events.push(message);
        }
    }

    /// All events so far of this name.
    pub(crate) fn events(&mut self, name: &str) -> Result<Vec<Value>> {
        // Events are delivered in order, so an answer comes after all that happened before its command.
        self.execute("query-status", json!({}))?;
        Ok(self.events.iter().filter(|e| e["event"] == name).cloned().collect())
    }

    fn message(&mut self) -> Result<Value> {
        let mut line = String::new();
        if self.stream.read_line(&mut line)? == 0 {
            bail!("QEMU has ended");
        }
        Ok(serde_json::from_str(&line)?)
    }
}
