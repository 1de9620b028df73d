//! An OCI image layout, <https://github.com/opencontainers/image-spec/blob/main/image-layout.md>: a folder of blobs named by
//! their digests, and an index that names the image.

use std::collections::HashMap;
use std::fs;
use std::path::Path;
use std::str::FromStr as _;

use anyhow::{Context as _, Result};
use oci_spec::image::{
    ANNOTATION_REF_NAME, Arch, ConfigBuilder, Descriptor, ImageConfigurationBuilder, ImageIndexBuilder,
    ImageManifestBuilder, MediaType, OciLayoutBuilder, Os, PlatformBuilder, RootFsBuilder, Sha256Digest,
};
use serde::Serialize;
use sha2::{Digest as _, Sha256};

use super::layer::{self, Files};

/// Name of an image in containerd's index; kubelets of containerd look for it there.
const CONTAINERD_NAME: &str = "io.containerd.image.name";

/// An image.
#[derive(Debug)]
pub struct Image {
    /// Its files.
    pub files: Files,
    /// What runs when nothing else is asked for.
    pub entrypoint: &'static str,
    /// Its name, such as `eni-ipam`.
    pub name: &'static str,
    /// Its tag.
    pub tag: &'static str,
    /// What it is, for people: labels of `org.opencontainers.image`.
    pub labels: Vec<(&'static str, &'static str)>,
    /// The machine that it is for, as OCI calls it.
    pub architecture: Arch,
}

impl Image {
    /// Writes the image as a layout into a folder, which is made anew. The same image gives the same bytes.
    ///
    /// # Errors
    /// A file cannot be written.
    pub fn write(&self, folder: &Path) -> Result<Descriptor> {
        if folder.exists() {
            fs::remove_dir_all(folder).with_context(|| folder.display().to_string())?;
        }
        let blobs = folder.join("blobs/sha256");
        fs::create_dir_all(&blobs).with_context(|| blobs.display().to_string())?;
        let archive = layer::archive(&self.files)?;
        let layer = blob(&blobs, MediaType::ImageLayerGzip, &layer::compress(&archive)?)?;
        let config = self.configuration(&archive)?;
        let config = blob(&blobs, MediaType::ImageConfig, &json(&config)?)?;
        let manifest = ImageManifestBuilder::default()
            .schema_version(2u32)
            .media_type(MediaType::ImageManifest)
            .config(config)
            .layers(vec![layer])
            .build()?;
        let mut manifest = blob(&blobs, MediaType::ImageManifest, &json(&manifest)?)?;
        manifest.set_platform(Some(
            PlatformBuilder::default().architecture(self.architecture.clone()).os(Os::Linux).build()?,
        ));
        let full = format!("docker.io/library/{}:{}", self.name, self.tag);
        manifest.set_annotations(Some(HashMap::from([
            (ANNOTATION_REF_NAME.to_owned(), format!("{}:{}", self.name, self.tag)),
            (CONTAINERD_NAME.to_owned(), full),
        ])));
        let index = ImageIndexBuilder::default()
            .schema_version(2u32)
            .media_type(MediaType::ImageIndex)
            .manifests(vec![manifest.clone()])
            .build()?;
        fs::write(folder.join("index.json"), json(&index)?)?;
        let layout = OciLayoutBuilder::default().image_layout_version("1.0.0").build()?;
        fs::write(folder.join("oci-layout"), json(&layout)?)?;
        Ok(manifest)
    }

    fn configuration(&self, archive: &[u8]) -> Result<oci_spec::image::ImageConfiguration> {
        let labels = self.labels.iter().map(|&(name, value)| (name.to_owned(), value.to_owned()));
        let config = ConfigBuilder::default()
            .entrypoint(vec![self.entrypoint.to_owned()])
            .labels(labels.collect::<HashMap<_, _>>())
            .build()?;
        let contents = RootFsBuilder::default()
            .typ("layers")
            .diff_ids(vec![format!("sha256:{}", digest(archive))])
            .build()?;
        Ok(ImageConfigurationBuilder::default()
            .architecture(self.architecture.clone())
            .os(Os::Linux)
            .config(config)
            .rootfs(contents)
            .build()?)
    }
}

/// Writes a layout as one file, as `podman load` and `ctr images import` take it.
///
/// # Errors
/// A file cannot be read or written.
pub fn pack(folder: &Path, file: &Path) -> Result<()> {
    let mut tar = tar::Builder::new(fs::File::create(file).with_context(|| file.display().to_string())?);
    tar.mode(tar::HeaderMode::Deterministic);
    tar.append_dir_all("", folder)?;
    Ok(tar.finish()?)
}

fn digest(content: &[u8]) -> String {
    Sha256::digest(content).iter().map(|byte| format!("{byte:02x}")).collect()
}

fn blob(folder: &Path, kind: MediaType, content: &[u8]) -> Result<Descriptor> {
    let digest = digest(content);
    fs::write(folder.join(&digest), content)?;
    Ok(Descriptor::new(kind, content.len() as u64, Sha256Digest::from_str(&digest)?))
}

/// JSON with sorted keys: maps of the types have no order of their own.
fn json(value: &impl Serialize) -> Result<Vec<u8>> {
    Ok(serde_json::to_vec(&serde_json::to_value(value)?)?)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::io::Read as _;
    use std::process::Command;

    use serde_json::Value;

    use super::super::layer::File;
    use super::*;

    fn image() -> Image {
        let file = |mode, content: &str| File { mode, content: content.as_bytes().to_vec() };
        Image {
            files: Files::from([
                ("program".to_owned(), file(0o755, "what it does")),
                ("etc/ssl/certs/roots".to_owned(), file(0o644, &"whom it trusts".repeat(5000))),
            ]),
            entrypoint: "/program",
            name: "test",
            tag: "1.2.3",
            labels: vec![
                ("org.opencontainers.image.title", "a test"),
                ("org.opencontainers.image.version", "1.2.3"),
            ],
            architecture: Arch::Amd64,
        }
    }

    fn read(path: &Path) -> Value {
        serde_json::from_slice(&fs::read(path).unwrap()).unwrap()
    }

    /// The blob that a descriptor names, which has that size and that digest.
    fn follow(folder: &Path, descriptor: &Value) -> Vec<u8> {
        let name = descriptor["digest"].as_str().unwrap().strip_prefix("sha256:").unwrap();
        let content = fs::read(folder.join("blobs/sha256").join(name)).unwrap();
        assert_eq!(descriptor["size"], content.len());
        assert_eq!(digest(&content), name);
        content
    }

    #[test]
    fn every_digest_leads_on_and_the_files_are_at_the_end() {
        let dir = tempfile::tempdir().unwrap();
        let folder = dir.path().join("image");
        image().write(&folder).unwrap();
        assert_eq!(read(&folder.join("oci-layout"))["imageLayoutVersion"], "1.0.0");
        let index = read(&folder.join("index.json"));
        let named = &index["manifests"][0];
        assert_eq!(named["annotations"][ANNOTATION_REF_NAME], "test:1.2.3");
        assert_eq!(named["platform"]["architecture"], "amd64");
        let manifest: Value = serde_json::from_slice(&follow(&folder, named)).unwrap();
        assert_eq!(manifest["mediaType"], "application/vnd.oci.image.manifest.v1+json");
        let config: Value = serde_json::from_slice(&follow(&folder, &manifest["config"])).unwrap();
        assert_eq!(config["config"]["Entrypoint"][0], "/program");
        let layer = follow(&folder, &manifest["layers"][0]);
        let mut archive = Vec::new();
        flate2::read::GzDecoder::new(&layer[..]).read_to_end(&mut archive).unwrap();
        assert_eq!(config["rootfs"]["diff_ids"][0], format!("sha256:{}", digest(&archive)));
        assert_eq!(fs::read_dir(folder.join("blobs/sha256")).unwrap().count(), 3, "a blob that nobody names");

        let mut found = BTreeMap::new();
        for entry in tar::Archive::new(&archive[..]).entries().unwrap() {
            let mut entry = entry.unwrap();
            let head = entry.header().clone();
            assert_eq!((head.uid().unwrap(), head.gid().unwrap(), head.mtime().unwrap()), (0, 0, 0));
            let mut content = String::new();
            entry.read_to_string(&mut content).unwrap();
            let path = entry.path().unwrap().display().to_string();
            found.insert(path, (head.mode().unwrap(), content.len()));
        }
        let wanted = [("etc/", 0o755, 0), ("etc/ssl/", 0o755, 0), ("etc/ssl/certs/", 0o755, 0)];
        let files = [("etc/ssl/certs/roots", 0o644, 70_000), ("program", 0o755, 12)];
        let wanted =
            wanted.into_iter().chain(files).map(|(path, mode, size)| (path.to_owned(), (mode, size)));
        assert_eq!(found, wanted.collect());
    }

    #[test]
    fn the_same_files_give_the_same_image() {
        let dir = tempfile::tempdir().unwrap();
        let digests =
            ["a", "b"].map(|name| image().write(&dir.path().join(name)).unwrap().digest().to_string());
        assert_eq!(digests[0], digests[1]);
        let indexes = ["a", "b"].map(|name| fs::read(dir.path().join(name).join("index.json")).unwrap());
        assert_eq!(indexes[0], indexes[1]);
        let mut other = image();
        other.files.get_mut("program").unwrap().content.push(b'!');
        assert_ne!(other.write(&dir.path().join("c")).unwrap().digest().to_string(), digests[0]);
    }

    /// Another program's eyes. Without root, or without podman, the test above is the only one.
    #[test]
    fn podman_reads_it() {
        if !rustix::process::geteuid().is_root() || Command::new("podman").arg("--version").output().is_err()
        {
            return println!("not run: it needs podman and root");
        }
        // podman makes an image's name of the folder's, and takes no capitals.
        let name = format!("ipam-image-{}", std::process::id());
        let dir = tempfile::Builder::new().prefix(&name).rand_bytes(0).tempdir().unwrap();
        let folder = dir.path().join("image");
        image().write(&folder).unwrap();
        let podman = |arguments: &[&str]| {
            let mut podman = Command::new("podman");
            podman.arg("--root").arg(dir.path().join("root")).arg("--runroot").arg(dir.path().join("run"));
            let done = podman.args(["--storage-driver", "vfs"]).args(arguments).output().unwrap();
            assert!(done.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&done.stderr));
            String::from_utf8(done.stdout).unwrap().trim().to_owned()
        };
        let file = dir.path().join("image.tar");
        pack(&folder, &file).unwrap();
        let loaded = podman(&["load", "--quiet", "--input", &file.display().to_string()]);
        let id = loaded.rsplit(' ').next().unwrap();
        assert!(id.ends_with("/test:1.2.3"), "{loaded}");
        let seen: Value = serde_json::from_str(&podman(&["image", "inspect", id])).unwrap();
        assert_eq!(seen[0]["Config"]["Entrypoint"][0], "/program");
        assert_eq!(seen[0]["Labels"]["org.opencontainers.image.version"], "1.2.3");
        let mounted = podman(&["image", "mount", id]);
        assert_eq!(fs::read_to_string(Path::new(&mounted).join("program")).unwrap(), "what it does");
        podman(&["image", "unmount", id]);
    }
}
