//! Where snapshots and backups may be: a folder or, if this program was built with the feature `cloud`, S3 and
//! Azure Blob. Credentials and endpoints of these come from the environment, under the names that their own
//! tools use: `AWS_ACCESS_KEY_ID`, `AWS_REGION`, `AWS_ENDPOINT`, `AZURE_STORAGE_ACCOUNT_NAME` and so on.

use std::{io::ErrorKind::NotFound, path::Path, sync::Arc};

use object_store::{ObjectStore, local::LocalFileSystem};
use shop_nats::private;

/// The addresses that this program knows.
#[cfg(not(feature = "cloud"))]
const SCHEMES: &str = "file:///<folder> (s3:// and az:// are known to one that was built with --features cloud)";
/// The addresses that this program knows.
#[cfg(feature = "cloud")]
const SCHEMES: &str = "file:///<folder>, s3://<bucket>/<path> or az://<container>/<path>";

/// An address that says nothing.
#[derive(Debug, thiserror::Error)]
#[error("{url} is no place to keep anything: {reason}; name a folder, or {SCHEMES}")]
pub struct AddressError {
    url: String,
    reason: String,
}

/// Makes a folder where an address names one that is not there.
pub fn make(url: &str) -> Result<(), AddressError> {
    let made = folder_in(url).map_or(Ok(()), private::make_data_folder);
    made.map_err(|error| failed(url, error.to_string()))
}

/// The object store at an address.
pub fn open(url: &str) -> Result<Arc<dyn ObjectStore>, AddressError> {
    let Some(folder) = folder_in(url) else { return remote(url) };
    // In words of our own: a store of files would speak of what it does with a path.
    match std::fs::metadata(folder) {
        Ok(found) if found.is_dir() => {}
        Ok(_) => return Err(failed(url, "it is no folder".to_owned())),
        Err(error) if error.kind() == NotFound => return Err(failed(url, "there is no such folder".to_owned())),
        Err(error) => return Err(failed(url, error.to_string())),
    }
    let store = LocalFileSystem::new_with_prefix(folder).map_err(|error| failed(url, error.to_string()))?;
    // What is written there is on the disk before it counts: the log may be cut because of it.
    Ok(Arc::new(store.with_fsync(true)))
}

/// The same address, as an absolute path if it names a folder.
pub fn absolute(url: &str) -> String {
    let folder = folder_in(url).and_then(|folder| folder.canonicalize().ok());
    folder.map_or_else(|| url.to_owned(), |folder| folder.display().to_string())
}

/// The folder that an address names, if it does.
pub fn folder_in(url: &str) -> Option<&Path> {
    match url.split_once("://") {
        None => Some(Path::new(url)),
        Some(("file", path)) => Some(Path::new(path)),
        Some(_) => None,
    }
}

#[cfg(not(feature = "cloud"))]
fn remote(url: &str) -> Result<Arc<dyn ObjectStore>, AddressError> {
    Err(failed(url, "this program reaches folders only".to_owned()))
}

#[cfg(feature = "cloud")]
fn remote(url: &str) -> Result<Arc<dyn ObjectStore>, AddressError> {
    remote_with(url, std::env::vars())
}

#[cfg(feature = "cloud")]
fn remote_with(
    url: &str,
    variables: impl Iterator<Item = (String, String)>,
) -> Result<Arc<dyn ObjectStore>, AddressError> {
    if !url.starts_with("s3://") && !url.starts_with("az://") {
        return Err(failed(url, "this program does not know such places".to_owned()));
    }
    // The same as for NATS. That somebody was faster changes nothing.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let parsed = url::Url::parse(url).map_err(|error| failed(url, error.to_string()))?;
    let options = variables.map(|(name, value)| (name.to_ascii_lowercase(), value));
    let opened = object_store::parse_url_opts(&parsed, options);
    let (store, path) = opened.map_err(|error| failed(url, error.to_string()))?;
    Ok(Arc::new(object_store::prefix::PrefixStore::new(store, path)))
}

fn failed(url: &str, reason: String) -> AddressError {
    AddressError { url: url.to_owned(), reason }
}

#[cfg(all(test, feature = "cloud"))]
mod cloud_tests;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::snapshot::Snapshots;

    #[test]
    fn an_address_that_names_no_place_is_refused_and_said_why() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let in_a_file = file.path().join("snapshots");
        for url in ["ftp://somewhere", "s3://", &in_a_file.to_string_lossy()] {
            let refusal = make(url).and_then(|()| open(url)).map(drop).unwrap_err().to_string();
            assert!(refusal.starts_with(&format!("{url} is no place to keep anything: ")), "{refusal}");
            assert!(refusal.contains("name a folder, or file:///<folder>"), "{refusal}");
        }
    }

    #[test]
    fn a_folder_may_be_named_by_its_path_or_as_a_url() {
        let folder = tempfile::tempdir().unwrap();
        for url in [folder.path().join("one").display().to_string(), format!("file://{}/two", folder.path().display())]
        {
            let refusal = Snapshots::find(&url).unwrap_err().to_string();
            assert!(refusal.contains("there is no such folder"), "{refusal}");
            assert_eq!(Snapshots::open(&url).unwrap().url(), url);
        }
    }
}
