//! Container images without a registry: in go a name and static programs, out comes a tar archive that
//! `ctr images import` reads. The same input gives the same bytes.

use std::path::Path;

use anyhow::{Context, Result};
use serde_json::json;
use sha2::{Digest, Sha256};

use crate::paths;

/// Writes the image `name_tag` (as in `nodebootstrap/agent:0.1.0`) to `out_tar`: empty but for `files`
/// (path in the image, path here; mode 0755), `/etc` and `/tmp`. It starts `entrypoint`.
pub fn build(name_tag: &str, out_tar: &Path, entrypoint: &str, files: &[(&str, &Path)]) -> Result<()> {
    let mut contents = Vec::new();
    for (inside, source) in files {
        let bytes = std::fs::read(source)
            .with_context(|| format!("cannot read {} for the image", source.display()))?;
        contents.push((*inside, bytes));
    }
    paths::write(out_tar, archive(name_tag, entrypoint, &contents)?)
}

fn archive(name_tag: &str, entrypoint: &str, files: &[(&str, Vec<u8>)]) -> Result<Vec<u8>> {
    let mut layer = tar::Builder::new(Vec::new());
    for folder in ["etc", "tmp"] {
        let mut header = tar::Header::new_ustar();
        header.set_entry_type(tar::EntryType::Directory);
        header.set_mode(if folder == "tmp" { 0o1777 } else { 0o755 });
        header.set_size(0);
        layer.append_data(&mut header, folder, std::io::empty()).context("cannot write the layer")?;
    }
    for (inside, bytes) in files {
        append(&mut layer, inside.trim_start_matches('/'), 0o755, bytes)?;
    }
    let layer = layer.into_inner().context("cannot write the layer")?;
    let layer_digest = hex::encode(Sha256::digest(&layer));

    let config = json!({
        "architecture": crate::architecture(),
        "os": "linux",
        "config": {"Entrypoint": [entrypoint]},
        "rootfs": {"type": "layers", "diff_ids": [format!("sha256:{layer_digest}")]},
        "history": [{"created": "1970-01-01T00:00:00Z", "created_by": "testbed"}],
    })
    .to_string();
    let config_file = format!("{}.json", hex::encode(Sha256::digest(&config)));
    let layer_file = format!("{layer_digest}/layer.tar");
    let manifest =
        json!([{"Config": config_file, "RepoTags": [name_tag], "Layers": [layer_file]}]).to_string();

    let mut image = tar::Builder::new(Vec::new());
    append(&mut image, &config_file, 0o644, config.as_bytes())?;
    append(&mut image, &layer_file, 0o644, &layer)?;
    append(&mut image, "manifest.json", 0o644, manifest.as_bytes())?;
    image.into_inner().context("cannot write the image")
}

fn append(to: &mut tar::Builder<Vec<u8>>, path: &str, mode: u32, bytes: &[u8]) -> Result<()> {
    let mut header = tar::Header::new_ustar();
    header.set_mode(mode);
    header.set_size(bytes.len() as u64);
    to.append_data(&mut header, path, bytes).with_context(|| format!("cannot write {path} into the archive"))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::io::Read;

    use super::*;

    fn unpack(archive: &[u8]) -> BTreeMap<String, Vec<u8>> {
        let mut found = BTreeMap::new();
        for entry in tar::Archive::new(archive).entries().expect("an archive") {
            let mut entry = entry.expect("an entry");
            let mut bytes = Vec::new();
            entry.read_to_end(&mut bytes).expect("whole");
            found.insert(entry.path().expect("a path").display().to_string(), bytes);
        }
        found
    }

    #[test]
    fn the_digests_in_an_image_are_those_of_its_parts() {
        let image = archive("a/b:1", "/run", &[("/run", b"program".to_vec())]).expect("built");
        let parts = unpack(&image);
        let manifest: serde_json::Value = serde_json::from_slice(&parts["manifest.json"]).expect("JSON");
        assert_eq!(manifest[0]["RepoTags"][0], "a/b:1");
        let config_file = manifest[0]["Config"].as_str().expect("text");
        let config = &parts[config_file];
        assert_eq!(config_file, format!("{}.json", hex::encode(Sha256::digest(config))));
        let layer = &parts[manifest[0]["Layers"][0].as_str().expect("text")];
        let config: serde_json::Value = serde_json::from_slice(config).expect("JSON");
        assert_eq!(config["rootfs"]["diff_ids"][0], format!("sha256:{}", hex::encode(Sha256::digest(layer))));
        assert_eq!(unpack(layer)["run"], b"program");
    }

    #[test]
    fn the_same_input_gives_the_same_bytes() {
        let build = || archive("a/b:1", "/run", &[("/run", b"program".to_vec())]).expect("built");
        let first = build();
        std::thread::sleep(std::time::Duration::from_millis(1100));
        assert_eq!(first, build(), "a time of writing got into the archive");
    }
}
