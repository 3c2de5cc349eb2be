//! The images that the documents name, built as a reader builds them: by `examples/images/build`,
//! once for all documents.

use std::path::PathBuf;
use std::process::Command;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use tempfile::TempDir;

/// Archives for `everynode load`. They are gone when no test uses them any more.
pub struct Images(TempDir);

impl Images {
    pub fn archive(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// Or why there are none.
    pub fn build() -> Result<Arc<Images>, String> {
        static BUILT: Mutex<Weak<Images>> = Mutex::new(Weak::new());
        // Tests that run side by side wait for the first one's images.
        let mut built = BUILT.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(images) = built.upgrade() {
            return Ok(images);
        }
        let images = Arc::new(run_script()?);
        *built = Arc::downgrade(&images);
        Ok(images)
    }
}

fn run_script() -> Result<Images, String> {
    let dir = tempfile::Builder::new().prefix("everynode-images-").tempdir().expect("a temporary folder can be made");
    let script = super::repository().join("examples/images/build");
    let output = Command::new(script).arg(dir.path()).output().map_err(|error| format!("examples/images/build: {error}"))?;
    if output.status.success() {
        return Ok(Images(dir));
    }
    // The script's own words come last, after those of apt.
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    Err(said.lines().last().unwrap_or("examples/images/build failed").to_owned())
}
