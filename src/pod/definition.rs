//! What tells a container's definition from a later one.

use std::fmt::{self, Write as _};

use k8s_openapi::api::core::v1::Container;

/// The number of a container's definition: of all that a pod may change in place only the image asks
/// for another container, so that and the name count.
///
/// It is upstream's (`HashContainer`): 32-bit FNV-1a over the bytes of the JSON object
/// `{"image":…,"name":…}`, each as a decimal number, as Go's debugging output has them.
#[must_use]
pub fn definition(container: &Container) -> u32 {
    number(&container.name, container.image.as_deref().unwrap_or_default())
}

/// The same of a container's name and image.
pub(crate) fn number(name: &str, image: &str) -> u32 {
    let json = serde_json::json!({"image": image, "name": name}).to_string();
    let mut hash = Fnv(Fnv::OFFSET_BASIS);
    hash.add("([]uint8)[");
    for (index, byte) in json.bytes().enumerate() {
        hash.add(if index == 0 { "" } else { " " });
        // Nothing is written that could fail.
        let _ = write!(hash, "{byte}");
    }
    hash.add("]");
    hash.0
}

/// The hash so far, of what was written.
struct Fnv(u32);

impl Fnv {
    const OFFSET_BASIS: u32 = 0x811c_9dc5;
    const PRIME: u32 = 0x0100_0193;

    fn add(&mut self, text: &str) {
        for byte in text.bytes() {
            self.0 = (self.0 ^ u32::from(byte)).wrapping_mul(Fnv::PRIME);
        }
    }
}

impl fmt::Write for Fnv {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        self.add(text);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_number_is_upstreams() {
        // Of upstream's own test (`TestConsistentHashContainer`).
        assert_eq!(number("test_container", "foo/image:v1"), 0x8e45_cbd0);
        assert_ne!(number("test_container", "foo/image:v2"), 0x8e45_cbd0);
    }
}
