//! Writes the CRDs into `install/crds`, or into the folder that is named.

use std::error::Error;
use std::path::PathBuf;
use std::{env, fs};

fn main() -> Result<(), Box<dyn Error>> {
    let folder =
        env::args_os().nth(1).map_or_else(|| PathBuf::from(env!("CARGO_MANIFEST_DIR")), PathBuf::from);
    for (file, definition) in sluice_crds::definitions() {
        let path = folder.join(file);
        fs::write(&path, sluice_crds::yaml(&definition)?)
            .map_err(|error| format!("cannot write {}: {error}", path.display()))?;
        println!("{}", path.display());
    }
    Ok(())
}
