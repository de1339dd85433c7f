//! What the verifier made of the programs.

use aya::Ebpf;

use super::{Datapath, Uprobes};

/// A program as the kernel holds it.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "camelCase")]
pub struct LoadedProgram {
    /// Its name in the object.
    pub name: String,
    /// Instructions after the verifier's rewriting.
    pub instructions: u32,
    /// Instructions that the verifier walked through on all paths, of a million that it allows. Before 5.16 the kernel
    /// does not tell.
    pub steps: Option<u32>,
}

/// Size of an instruction in bytes: `struct bpf_insn` (include/uapi/linux/bpf.h).
const INSTRUCTION: u32 = 8;

impl Datapath {
    /// Every program that is loaded, by name.
    pub fn programs(&self) -> Vec<LoadedProgram> {
        of_object(&self.object)
    }
}

impl Uprobes {
    /// The same of the probes.
    pub fn programs(&self) -> Vec<LoadedProgram> {
        of_object(&self.object)
    }
}

fn of_object(object: &Ebpf) -> Vec<LoadedProgram> {
    let mut programs: Vec<LoadedProgram> = object
        .programs()
        // One that is not loaded has no description.
        .filter_map(|(name, program)| Some((name, program.info().ok()?)))
        .map(|(name, info)| LoadedProgram {
            name: name.to_owned(),
            instructions: info.size_translated().unwrap_or_default() / INSTRUCTION,
            steps: info.verified_instruction_count(),
        })
        .collect();
    programs.sort_by(|one, other| one.name.cmp(&other.name));
    programs
}
