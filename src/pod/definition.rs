//! What tells a container's definition from a later one.

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
    const OFFSET_BASIS: u32 = 0x811c_9dc5;
    const PRIME: u32 = 0x0100_0193;
    let json = serde_json::json!({"image": image, "name": name}).to_string();
    let numbers: Vec<_> = json.bytes().map(|byte| byte.to_string()).collect();
    let shown = format!("([]uint8)[{}]", numbers.join(" "));
    shown.bytes().fold(OFFSET_BASIS, |hash, byte| (hash ^ u32::from(byte)).wrapping_mul(PRIME))
}
