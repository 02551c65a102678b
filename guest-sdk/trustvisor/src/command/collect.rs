//! `trustvisor collect`.

use super::Print;
use serde_json::json;

pub(super) fn run(print: Print) -> anyhow::Result<()> {
    let freed = trustvisor::collect()?;
    print.value(
        &format!("freed {freed} PALs (one is freed by the second look, 10 s after the first)"),
        &json!({ "freed": freed }),
    );
    Ok(())
}
