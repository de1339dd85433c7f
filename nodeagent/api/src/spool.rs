//! What the agent missed: a directory in which the plugin leaves a request for an agent that does not answer.
//!
//! ```text
//! <state dir>/spool/<container id>:<ifname>.json    the last ADD or DEL of an attachment, as a Request in JSON
//! <state dir>/spool/refused/                        what the agent could not take, for the operator to look at
//! ```
//!
//! There is one file for each attachment, and it appears whole: it is written under a name that begins with `.` and
//! renamed. So a DEL takes the place of the ADD before it, and an ADD that of a DEL. Before the plugin asks the agent
//! anything of an attachment it removes the file, for what it asks is newer.
//!
//! The agent reads, carries out and removes a file while it holds its state: a request that comes in at the same time
//! is carried out before that or after, never in between.

use crate::Attachment;

/// The directory below the state directory.
pub const DIRECTORY: &str = "spool";

/// The directory below that, for what could not be taken.
pub const REFUSED: &str = "refused";

/// The longest file, in bytes.
pub const LONGEST: u64 = 64 << 10;

/// The most files: the directory is on tmpfs, which is the node's memory.
pub const MOST: usize = 16_384;

/// The name of an attachment's file. Neither part may hold `:` or `/`, so no two attachments share one.
pub fn file_name(attachment: &Attachment) -> String {
    format!("{}:{}.json", attachment.container_id, attachment.ifname)
}
