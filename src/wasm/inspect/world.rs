//! What a component says of itself: the names that it imports and exports.

use serde::{Deserialize, Serialize};
use wasmparser::{Parser, Payload};

use super::{InspectError, shown};

/// Most names of either kind that are kept.
const NAMES_MAX: usize = 1000;

/// The names of a component's imports and exports, in its order; none for a core module.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct World {
    /// What it wants from its host.
    pub imports: Vec<String>,
    /// What it gives.
    pub exports: Vec<String>,
}

/// Takes the bytes of a whole file and gives the names at its top level.
///
/// # Errors
/// [`InspectError::Malformed`], [`InspectError::TooMany`].
pub fn world(bytes: &[u8]) -> Result<World, InspectError> {
    let mut world = World::default();
    let mut depth = 0_usize;
    for payload in Parser::new(0).parse_all(bytes) {
        let payload = payload?;
        if let Payload::ModuleSection { .. } | Payload::ComponentSection { .. } = payload {
            depth += 1;
        } else if let Payload::End(_) = payload {
            depth = depth.saturating_sub(1);
        } else if let (Payload::ComponentImportSection(section), 0) = (&payload, depth) {
            for import in section.clone() {
                world.imports.push(shown(import?.name.name));
            }
        } else if let (Payload::ComponentExportSection(section), 0) = (&payload, depth) {
            for export in section.clone() {
                world.exports.push(shown(export?.name.name));
            }
        }
        for (what, names) in [("imports", &world.imports), ("exports", &world.exports)] {
            if names.len() > NAMES_MAX {
                return Err(InspectError::TooMany { what, max: NAMES_MAX });
            }
        }
    }
    Ok(world)
}
