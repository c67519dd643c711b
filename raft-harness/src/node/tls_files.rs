//! The files of a node's certificates: read at its start, and looked at every few seconds from then on.
//!
//! Their content is compared, not their times: a file that was written within one tick of a clock, or
//! put back with an old date, is another one all the same. They are a few kilobytes.
//!
//! Invariant: what cannot be used never takes the place of what can.

use std::fs::{self, File};
use std::io::{self, Read as _};
use std::path::Path;
use std::time::{Duration, Instant, SystemTime};

use crossbeam::channel::{Receiver, RecvTimeoutError};
use raft_core::NodeId;
use raft_transport::{Tls, TlsError, TlsMaterial, TlsRefusal};
use tracing::{info, warn};

use super::error::TlsProblem;
use super::options::TlsOptions;

/// How often the files are looked at.
const LOOK_EVERY: Duration = Duration::from_secs(5);
/// From so long before its end on it is told that a certificate expires.
const EXPIRES_SOON: Duration = Duration::from_secs(30 * 24 * 60 * 60);
/// How often that is told.
const TELL_EVERY: Duration = Duration::from_secs(24 * 60 * 60);
/// More is no certificate, whoever put it there.
const FILE_BYTES_MAX: u64 = 1 << 20;

/// The certificates of a node, if every peer with the same CAs would take them.
pub(crate) fn load(cluster: &str, node: NodeId, files: &TlsOptions) -> Result<Tls, TlsProblem> {
    let made = Tls::new(cluster, node, read(files)?, files.handshake_timeout);
    made.map_err(|error| problem(files, &error))
}

/// For how long peers take the certificate in use from now on.
pub(crate) fn time_left(tls: &Tls) -> Duration {
    tls.expires().duration_since(SystemTime::now()).unwrap_or_default()
}

/// In how many whole days the certificate in use expires, if it is time to say so.
pub(crate) fn days_if_few(tls: &Tls) -> Option<u64> {
    let left = time_left(tls);
    (left < EXPIRES_SOON).then_some(left.as_secs() / (24 * 60 * 60))
}

fn read(files: &TlsOptions) -> Result<TlsMaterial, TlsProblem> {
    let read = |path: &Path| {
        read_file(path).map_err(|source| TlsProblem::File { path: path.to_owned(), source })
    };
    Ok(TlsMaterial {
        certificate: read(&files.certificate)?,
        key: read(&files.key)?,
        ca: read(&files.ca)?,
    })
}

/// Whoever reads a pipe waits for its writer, and a device may have no end.
fn read_file(path: &Path) -> io::Result<Vec<u8>> {
    if !fs::metadata(path)?.is_file() {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "it is no regular file"));
    }
    let mut bytes = Vec::new();
    File::open(path)?.take(FILE_BYTES_MAX + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > FILE_BYTES_MAX {
        return Err(io::ErrorKind::FileTooLarge.into());
    }
    Ok(bytes)
}

fn problem(files: &TlsOptions, error: &TlsError) -> TlsProblem {
    let path = match error {
        TlsError::NoCa | TlsError::Unreadable { what: "CA", .. } => &files.ca,
        TlsError::NoKey | TlsError::KeyMismatch | TlsError::Unreadable { what: "key", .. } => {
            &files.key
        }
        _ => &files.certificate,
    };
    TlsProblem::Unusable { path: path.clone(), why: error.to_string() }
}

/// Looks whether the files are others than those in use.
pub(super) struct Watch {
    tls: Tls,
    files: TlsOptions,
    /// What could not be used when it was last looked at.
    broken: Option<Broken>,
    expiry_told: Option<Instant>,
}

struct Broken {
    /// `None`: it could not even be read.
    material: Option<TlsMaterial>,
    /// The only thing wrong with it is the time, so it is tried again.
    is_early: bool,
    told: bool,
}

impl Watch {
    pub(super) fn new(tls: Tls, files: TlsOptions) -> Self {
        Self { tls, files, broken: None, expiry_told: None }
    }

    /// Looks every few seconds, until nobody holds the sender any more.
    pub(super) fn run(mut self, asked: &Receiver<()>) {
        self.tell_expiry();
        while let Err(RecvTimeoutError::Timeout) = asked.recv_timeout(LOOK_EVERY) {
            self.look();
            self.tell_expiry();
        }
    }

    fn look(&mut self) {
        let (material, is_early, problem) = match read(&self.files) {
            Ok(material) => {
                let is_hopeless = self.broken.as_ref().is_some_and(|broken| {
                    let is_known = broken.told && broken.material.as_ref() == Some(&material);
                    is_known && !broken.is_early
                });
                if is_hopeless {
                    return;
                }
                match self.tls.replace(material.clone()) {
                    Ok(false) => {
                        self.broken = None;
                        return;
                    }
                    Ok(true) => {
                        self.broken = None;
                        self.expiry_told = None;
                        info!(
                            "took other certificates into use: new connections are made with them"
                        );
                        return;
                    }
                    Err(error) => {
                        let is_early = error == TlsError::Refused(TlsRefusal::NotYetValid);
                        (Some(material), is_early, problem(&self.files, &error))
                    }
                }
            }
            Err(problem) => (None, false, problem),
        };
        // Files are put in place one after the other: what is wrong at the second look as well is told.
        let again = self.broken.as_ref().is_some_and(|broken| broken.material == material);
        if again && !self.broken.as_ref().is_some_and(|broken| broken.told) {
            let why = super::chain(&problem);
            warn!(%why, "the certificates in the files cannot be used: those before stay in use");
        }
        self.broken = Some(Broken { material, is_early, told: again });
    }

    fn tell_expiry(&mut self) {
        if self.expiry_told.is_some_and(|told| told.elapsed() < TELL_EVERY) {
            return;
        }
        if let Some(days) = days_if_few(&self.tls) {
            self.expiry_told = Some(Instant::now());
            let file = self.files.certificate.display();
            warn!(%file, days, "the certificate of this node expires: no peer takes it then");
        }
    }
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use rcgen::{
        CertificateParams, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, SanType, date_time_ymd,
    };

    use super::*;

    struct Ca {
        pem: String,
        issuer: Issuer<'static, KeyPair>,
    }

    impl Ca {
        fn new() -> Self {
            let mut params = CertificateParams::default();
            params.is_ca = IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
            let key = KeyPair::generate().unwrap();
            let pem = params.self_signed(&key).unwrap().pem();
            Self { pem, issuer: Issuer::new(params, key) }
        }

        /// Certificate and key of node 1.
        fn one(&self) -> [String; 2] {
            self.one_from(SystemTime::UNIX_EPOCH)
        }

        /// The same, valid from a moment on.
        fn one_from(&self, begin: SystemTime) -> [String; 2] {
            let since_epoch = begin.duration_since(SystemTime::UNIX_EPOCH).unwrap();
            let mut params = CertificateParams::default();
            params.not_before = date_time_ymd(1970, 1, 1) + since_epoch;
            params.not_after = date_time_ymd(2200, 1, 1);
            params.subject_alt_names = vec![SanType::URI("raft://c/1".try_into().unwrap())];
            params.extended_key_usages =
                vec![ExtendedKeyUsagePurpose::ClientAuth, ExtendedKeyUsagePurpose::ServerAuth];
            let key = KeyPair::generate().unwrap();
            [params.signed_by(&key, &self.issuer).unwrap().pem(), key.serialize_pem()]
        }
    }

    fn files(directory: &Path) -> TlsOptions {
        let file = |name: &str| -> PathBuf { directory.join(name) };
        TlsOptions {
            certificate: file("node.pem"),
            key: file("node.key"),
            ca: file("ca.pem"),
            handshake_timeout: TlsOptions::HANDSHAKE_TIMEOUT,
        }
    }

    #[test]
    fn files_that_change_one_by_one_are_taken_when_they_fit_together() {
        let directory = tempfile::tempdir().unwrap();
        let files = files(directory.path());
        let ca = Ca::new();
        let [certificate, key] = ca.one();
        fs::write(&files.ca, &ca.pem).unwrap();
        fs::write(&files.certificate, certificate).unwrap();
        let missing = load("c", NodeId::new(1), &files).unwrap_err();
        assert!(matches!(&missing, TlsProblem::File { path, .. } if *path == files.key));
        fs::write(&files.key, &key).unwrap();
        let tls = load("c", NodeId::new(1), &files).unwrap();
        let mut watch = Watch::new(tls.clone(), files.clone());
        let reloads = || (tls.snapshot().reloads, watch_failures(&tls));
        watch.look();
        assert_eq!(reloads(), (0, 0));

        let [certificate, new_key] = ca.one();
        fs::write(&files.certificate, certificate).unwrap();
        for told in [false, true, true, true] {
            watch.look();
            assert_eq!(watch.broken.as_ref().map(|broken| broken.told), Some(told));
        }
        assert_eq!(reloads(), (0, 2), "what was told is not tried again");
        fs::write(&files.key, new_key).unwrap();
        watch.look();
        assert!(watch.broken.is_none());
        assert_eq!(reloads(), (1, 2));

        fs::remove_file(&files.ca).unwrap();
        watch.look();
        watch.look();
        assert!(watch.broken.as_ref().is_some_and(|broken| broken.told));
        fs::write(&files.ca, &ca.pem).unwrap();
        watch.look();
        assert!(watch.broken.is_none());
        assert_eq!(reloads(), (1, 2));
    }

    #[test]
    fn what_is_not_valid_yet_is_told_once_and_taken_once_it_is_valid() {
        const PATIENCE: Duration = Duration::from_secs(60);
        let directory = tempfile::tempdir().unwrap();
        let files = files(directory.path());
        let ca = Ca::new();
        let put = |[certificate, key]: [String; 2]| {
            fs::write(&files.certificate, certificate).unwrap();
            fs::write(&files.key, key).unwrap();
        };
        fs::write(&files.ca, &ca.pem).unwrap();
        put(ca.one());
        let tls = load("c", NodeId::new(1), &files).unwrap();
        let mut watch = Watch::new(tls.clone(), files.clone());

        // A certificate has no time but that of the machine.
        put(ca.one_from(SystemTime::now() + Duration::from_secs(4)));
        for told in [false, true, true] {
            watch.look();
            assert_eq!(watch.broken.as_ref().map(|broken| broken.told), Some(told));
        }
        let began = Instant::now();
        while watch.broken.is_some() {
            assert!(began.elapsed() < PATIENCE, "it is valid by now");
            std::thread::sleep(Duration::from_millis(50));
            watch.look();
        }
        assert_eq!(tls.snapshot().reloads, 1);
    }

    #[test]
    fn what_is_no_file_or_a_very_long_one_is_not_read() {
        let directory = tempfile::tempdir().unwrap();
        let of_length = |bytes| {
            let path = directory.path().join("long");
            File::create(&path).unwrap().set_len(bytes).unwrap();
            read_file(&path).map(|bytes| bytes.len() as u64).map_err(|error| error.kind())
        };
        assert_eq!(of_length(FILE_BYTES_MAX), Ok(FILE_BYTES_MAX));
        assert_eq!(of_length(FILE_BYTES_MAX + 1), Err(io::ErrorKind::FileTooLarge));
        let error = read_file(directory.path()).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidInput, "{error}");
        if cfg!(unix) {
            let error = read_file(Path::new("/dev/zero")).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::InvalidInput, "{error}");
        }
    }

    fn watch_failures(tls: &Tls) -> u64 {
        tls.snapshot().reloads_failed
    }

    #[test]
    fn what_is_wrong_is_said_of_the_file_that_it_is_wrong_with() {
        let directory = tempfile::tempdir().unwrap();
        let files = files(directory.path());
        let (ca, foreign) = (Ca::new(), Ca::new());
        let [certificate, key] = ca.one();
        let all = [(&files.ca, &ca.pem), (&files.certificate, &certificate), (&files.key, &key)];
        let cases = [
            (&files.ca, foreign.pem.clone(), &files.certificate),
            (&files.ca, String::new(), &files.ca),
            (&files.key, ca.one()[1].clone(), &files.key),
            (&files.certificate, "garbage".to_owned(), &files.certificate),
        ];
        for (broken, content, blamed) in cases {
            for (path, content) in all {
                fs::write(path, content).unwrap();
            }
            assert!(load("c", NodeId::new(1), &files).is_ok());
            fs::write(broken, content).unwrap();
            let problem = load("c", NodeId::new(1), &files).unwrap_err();
            assert!(
                matches!(&problem, TlsProblem::Unusable { path, .. } if path == blamed),
                "{problem}"
            );
        }
        let other = load("c", NodeId::new(2), &files).unwrap_err();
        assert!(matches!(other, TlsProblem::Unusable { .. }), "{other}");
    }
}
