//! Suite `fuzz`.

use anyhow::Result;
use std::time::Duration;

pub(crate) fn run(_each: Duration) -> Result<()> {
    Ok(())
}
