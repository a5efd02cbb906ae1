//! The units of a system that does not run: an image, or the root of a machine that was not booted yet.
//!
//! In: the files below the root. Out: units enabled and disabled by the links that systemd itself would make. Nothing
//! can be started.

use std::collections::{BTreeMap, BTreeSet};

use super::install::{self, Link, MASK, UNIT_DIRECTORY, UNIT_PATH};
use super::root::{Kind, Place};
use super::systemd::{Answer, Job, Systemd, UnitState};
use super::{HostError, Root};

const MAX_UNIT: u64 = 1 << 20;

/// The unit files of a root.
#[derive(Debug)]
pub struct Offline {
    root: Root,
}

impl Offline {
    /// The units of this root.
    pub fn of(root: &Root) -> Self {
        Self { root: root.clone() }
    }

    /// The root that it is about.
    pub fn root(&self) -> Root {
        self.root.clone()
    }

    /// The file that a unit is read from, and its text.
    fn file(&self, unit: &str) -> Result<Option<(String, String)>, HostError> {
        for name in [unit.to_owned(), install::file_name(unit)] {
            for directory in UNIT_PATH {
                let path = format!("{directory}/{name}");
                // What is no file (a link to /dev/null masks a unit) has no text.
                let place = self.root.locate_through_links(&path)?;
                match place.look()? {
                    Some(meta) if meta.kind == Kind::File => {
                        let text = place.read(MAX_UNIT)?.map(|(text, _)| text).unwrap_or_default();
                        return Ok(Some((path, String::from_utf8_lossy(&text).into_owned())));
                    }
                    Some(_) => return Ok(Some((path, String::new()))),
                    None => {}
                }
            }
        }
        Ok(None)
    }

    fn links(&self, unit: &str) -> Result<Vec<Link>, HostError> {
        Ok(self.file(unit)?.map(|(path, text)| install::links(unit, &path, &text)).unwrap_or_default())
    }

    /// The links to a unit: as its file says, or as it said before.
    fn there(&self, unit: &str, links: &[Link]) -> Result<BTreeSet<String>, HostError> {
        let mut there = BTreeSet::new();
        for path in links.iter().map(|link| link.path.clone()).chain(install::link_paths(&self.root, unit)?) {
            if install::is_link_of(&self.root, &path, unit)? {
                there.insert(path);
            }
        }
        Ok(there)
    }

    /// The folder that a link lies in; `None`: an alias lies among the units themselves.
    fn folder(&self, path: &str) -> Result<Option<Place>, HostError> {
        let folder = self.root.locate(self.root.locate(path)?.parent())?;
        Ok(install::is_link_folder(&folder.name).then_some(folder))
    }

    /// Removes a link, and its folder if that is empty then, as systemctl does.
    fn unlink(&self, path: &str) -> Result<(), HostError> {
        self.root.unlink(&self.root.locate(path)?)?;
        self.remove_folder(path)
    }

    fn remove_folder(&self, path: &str) -> Result<(), HostError> {
        self.folder(path)?.map_or(Ok(()), |folder| self.root.remove_directory(&folder).map(drop))
    }

    fn is_empty(&self, folder: &Place) -> Result<bool, HostError> {
        let is_there = folder.look()?.is_some_and(|meta| meta.kind == Kind::Directory);
        let path = &folder.real;
        Ok(is_there && self.root.names_in(path)?.is_empty() && self.root.directories_in(path)?.is_empty())
    }

    fn state(&self, unit: &str) -> Result<UnitState, HostError> {
        if self.root.is_masked(unit)? {
            let masked = || "masked".to_owned();
            return Ok(UnitState { load: masked(), file: masked(), ..UnitState::default() });
        }
        let Some((path, text)) = self.file(unit)? else {
            return Ok(UnitState { load: "not-found".to_owned(), ..UnitState::default() });
        };
        let links = install::links(unit, &path, &text);
        let mut is_enabled = false;
        for path in self.there(unit, &links)? {
            // Another name that its file does not give it is somebody's own, for systemd too.
            is_enabled |= links.iter().any(|link| link.path == path) || self.folder(&path)?.is_some();
        }
        let file = match (links.is_empty(), is_enabled) {
            (_, true) => "enabled",
            (false, false) => "disabled",
            (true, false) => "static",
        };
        let mut has_empty_folder = false;
        for link in &links {
            has_empty_folder |=
                self.folder(&link.path)?.map_or(Ok(false), |folder| self.is_empty(&folder))?;
        }
        let (load, file) = ("loaded".to_owned(), file.to_owned());
        Ok(UnitState { load, file, has_empty_folder, ..UnitState::default() })
    }

    fn cannot<'a, T: 'a>(&'a self, unit: &str) -> Answer<'a, T> {
        let error = HostError::Systemd(format!(
            "{unit}: the system below this root does not run, so nothing is started"
        ));
        Box::pin(async move { Err(error) })
    }
}

impl Systemd for Offline {
    fn is_running(&self) -> bool {
        false
    }

    fn observe<'a>(&'a self, units: &'a [String]) -> Answer<'a, BTreeMap<String, UnitState>> {
        Box::pin(async move { units.iter().map(|unit| Ok((unit.clone(), self.state(unit)?))).collect() })
    }

    fn reload(&self) -> Answer<'_, ()> {
        // It reads them when it boots.
        Box::pin(async { Ok(()) })
    }

    fn enable<'a>(&'a self, unit: &'a str, again: bool) -> Answer<'a, ()> {
        Box::pin(async move {
            let links = self.links(unit)?;
            let there = self.there(unit, &links)?;
            let is_wanted = |path: &String| links.iter().any(|link| link.path == *path);
            for other in there.iter().filter(|path| again && !is_wanted(path)) {
                self.unlink(other)?;
            }
            for link in links.iter().filter(|link| !there.contains(&link.path)) {
                for parent in self.root.locate(&link.path)?.missing_paths() {
                    self.root.make_plain_directory(&self.root.locate(&parent)?)?;
                }
                self.root.link(&self.root.locate(&link.path)?, &link.target)?;
            }
            Ok(())
        })
    }

    fn disable<'a>(&'a self, unit: &'a str) -> Answer<'a, ()> {
        Box::pin(async move {
            let links = self.links(unit)?;
            for path in self.there(unit, &links)? {
                self.unlink(&path)?;
            }
            // Those too that a run which was killed has left empty.
            links.iter().try_for_each(|link| self.remove_folder(&link.path))
        })
    }

    fn mask<'a>(&'a self, unit: &'a str, masked: bool) -> Answer<'a, ()> {
        Box::pin(async move {
            let is_masked = self.root.is_masked(unit)?;
            let place = self.root.locate(&format!("{UNIT_DIRECTORY}/{unit}"))?;
            match (masked, is_masked) {
                (true, false) => {
                    for parent in place.missing_paths() {
                        self.root.make_plain_directory(&self.root.locate(&parent)?)?;
                    }
                    self.root.link(&self.root.locate(&place.real)?, MASK)
                }
                (false, true) => self.root.unlink(&place),
                _ => Ok(()),
            }
        })
    }

    fn load_modules(&self) -> Answer<'_, Job<'_>> {
        self.cannot("kernel modules")
    }

    fn output<'a>(&'a self, unit: &'a str, _command: &'a [&'a str]) -> Answer<'a, String> {
        self.cannot(unit)
    }

    fn run<'a>(&'a self, unit: &'a str, _command: &'a [&'a str]) -> Answer<'a, Job<'a>> {
        self.cannot(unit)
    }

    fn start<'a>(&'a self, unit: &'a str) -> Answer<'a, Job<'a>> {
        self.cannot(unit)
    }

    fn renew<'a>(&'a self, unit: &'a str) -> Answer<'a, Job<'a>> {
        self.cannot(unit)
    }

    fn stop<'a>(&'a self, unit: &'a str) -> Answer<'a, Job<'a>> {
        self.cannot(unit)
    }

    fn restart<'a>(&'a self, unit: &'a str) -> Answer<'a, Job<'a>> {
        self.cannot(unit)
    }
}
