//! The `[Install]` section of a unit file: where `systemctl enable` puts links.
//!
//! In: a unit's name and its file's text. Out: the links, as pairs of path and target; and where others may lie.

use std::collections::BTreeMap;

use super::{HostError, Kind, Root};

/// Where an administrator's units and links to units lie.
pub const UNIT_DIRECTORY: &str = "/etc/systemd/system";

/// What a unit that is masked is a link to.
pub const MASK: &str = "/dev/null";

/// Where unit files are looked for, the first that has one counts.
pub const UNIT_PATH: &[&str] = &[
    UNIT_DIRECTORY,
    "/run/systemd/system",
    "/usr/local/lib/systemd/system",
    "/usr/lib/systemd/system",
    "/lib/systemd/system",
];

/// The settings that enable a unit by a link in another's folder, and the ending of that folder.
pub const LINK_FOLDERS: [(&str, &str); 3] =
    [("WantedBy", "wants"), ("RequiredBy", "requires"), ("UpheldBy", "upholds")];

/// Whether a folder holds links that enable units, by its name.
pub fn is_link_folder(name: &str) -> bool {
    name.rsplit_once('.').is_some_and(|(_, ending)| LINK_FOLDERS.iter().any(|(_, known)| ending == *known))
}

/// Where links may lie that enable a unit: in each folder for such links that is there, and as its other names.
///
/// # Errors
/// If the folders cannot be listed.
pub fn link_paths(root: &Root, unit: &str) -> Result<Vec<String>, HostError> {
    let folders = root.directories_in(UNIT_DIRECTORY)?;
    let holds_links = folders.iter().filter(|folder| is_link_folder(folder));
    let mut paths: Vec<String> =
        holds_links.map(|folder| format!("{UNIT_DIRECTORY}/{folder}/{unit}")).collect();
    for name in root.names_in(UNIT_DIRECTORY)?.iter().filter(|name| *name != unit) {
        let path = format!("{UNIT_DIRECTORY}/{name}");
        if target_name(root, &path)?.is_some_and(|target| target == unit) {
            paths.push(path);
        }
    }
    Ok(paths)
}

/// The name of what a link leads to; `None`: no link is there.
fn target_name(root: &Root, path: &str) -> Result<Option<String>, HostError> {
    let place = root.locate(path)?;
    if place.look()?.is_none_or(|meta| meta.kind != Kind::Link) {
        return Ok(None);
    }
    let target = root.read_link(&place)?.unwrap_or_default();
    Ok(target.rsplit('/').next().map(str::to_owned))
}

/// Whether a link at a path enables a unit: in a folder for such links it does by its name, elsewhere it is another name of the
/// unit that it leads to.
///
/// # Errors
/// If the kernel refuses to tell.
pub fn is_link_of(root: &Root, path: &str, unit: &str) -> Result<bool, HostError> {
    let is_alias = path.rsplit_once('/').is_some_and(|(directory, _)| directory == UNIT_DIRECTORY);
    let target = target_name(root, path)?;
    Ok(target.is_some_and(|target| !is_alias || target == unit || target == file_name(unit)))
}

/// A link that enables a unit.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Link {
    /// Where it lies.
    pub path: String,
    /// What it leads to.
    pub target: String,
}

/// The links that enable a unit whose file has this text and lies at `file`. None: it cannot be enabled.
pub fn links(unit: &str, file: &str, text: &str) -> Vec<Link> {
    let settings = section(text, "Install");
    let values = |key: &str| settings.get(key).into_iter().flatten();
    let (prefix, instance, suffix) = parts(unit);
    // A template is enabled as the instance that it names itself.
    let instance = match (instance, settings.get("DefaultInstance").and_then(|values| values.last())) {
        (Some(""), Some(default)) => Some(default.as_str()),
        (instance, _) => instance,
    };
    let name = instance.map_or_else(|| unit.to_owned(), |instance| format!("{prefix}@{instance}.{suffix}"));
    let expand = |text: &str| {
        text.replace("%i", instance.unwrap_or_default())
            .replace("%p", prefix)
            .replace("%N", name.strip_suffix(&format!(".{suffix}")).unwrap_or(&name))
            .replace("%n", &name)
            .replace("%%", "%")
    };
    let mut links: Vec<_> = LINK_FOLDERS
        .into_iter()
        .flat_map(|(key, folder)| values(key).map(move |by| (by, folder)))
        .map(|(by, folder)| Link {
            path: format!("{UNIT_DIRECTORY}/{}.{folder}/{name}", expand(by)),
            target: file.to_owned(),
        })
        .chain(values("Alias").map(|alias| Link {
            path: format!("{UNIT_DIRECTORY}/{}", expand(alias)),
            target: file.to_owned(),
        }))
        // A unit may list its own name as an alias; that is no link. What is no name of a unit leads nowhere, as for systemd.
        .filter(|link| link.path != link.target && is_among_units(&link.path))
        .collect();
    links.sort();
    links.dedup();
    links
}

/// Whether a path is that of an entry among the units, or of one in a folder there.
fn is_among_units(path: &str) -> bool {
    let below = path.strip_prefix(UNIT_DIRECTORY).and_then(|rest| rest.strip_prefix('/'));
    let is_name = |step: &str| !matches!(step, "" | "." | "..") && !step.contains('\0');
    below.is_some_and(|below| below.split('/').count() <= 2 && below.split('/').all(is_name))
}

/// Whether enabling a unit with this text enables others.
pub fn has_also(text: &str) -> bool {
    section(text, "Install").get("Also").is_some_and(|others| !others.is_empty())
}

/// The name of the file that a unit is read from: an instance's is its template.
pub fn file_name(unit: &str) -> String {
    match parts(unit) {
        (prefix, Some(_), suffix) => format!("{prefix}@.{suffix}"),
        _ => unit.to_owned(),
    }
}

/// Prefix, instance (after `@`) and suffix of a unit's name.
fn parts(unit: &str) -> (&str, Option<&str>, &str) {
    let (stem, suffix) = unit.rsplit_once('.').unwrap_or((unit, ""));
    match stem.split_once('@') {
        Some((prefix, instance)) => (prefix, Some(instance), suffix),
        None => (stem, None, suffix),
    }
}

/// The settings of a section, each with its words. An empty value forgets those before it.
fn section(text: &str, wanted: &str) -> BTreeMap<String, Vec<String>> {
    let mut words: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for (key, value) in settings(text, wanted) {
        let words = words.entry(key).or_default();
        if value.is_empty() {
            words.clear();
        }
        words.extend(value.split_whitespace().map(|word| word.trim_matches('"').to_owned()));
    }
    words
}

/// The settings of a section of a unit's file, in their order, as they are written.
pub fn settings(text: &str, wanted: &str) -> Vec<(String, String)> {
    let mut settings = Vec::new();
    let mut inside = false;
    let mut lines = text.lines();
    while let Some(line) = lines.next() {
        let mut line = line.trim().to_owned();
        if line.is_empty() || line.starts_with(['#', ';']) {
            continue;
        }
        // A line that ends in `\` goes on in the next that is no comment.
        while line.ends_with('\\') {
            line.pop();
            match lines.by_ref().find(|next| !next.trim_start().starts_with(['#', ';'])) {
                Some(next) => {
                    line.push(' ');
                    line.push_str(next.trim());
                }
                None => break,
            }
        }
        if let Some(name) = line.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
            inside = name == wanted;
        } else if inside && let Some((key, value)) = line.split_once('=') {
            settings.push((key.trim().to_owned(), value.trim().to_owned()));
        }
    }
    settings
}

#[cfg(test)]
mod tests {
    use super::*;

    fn paths(unit: &str, text: &str) -> Vec<String> {
        let file = format!("{UNIT_DIRECTORY}/{}", file_name(unit));
        links(unit, &file, text)
            .into_iter()
            .map(|link| {
                assert_eq!(link.target, file);
                link.path.trim_start_matches("/etc/systemd/system/").to_owned()
            })
            .collect()
    }

    #[test]
    fn links_are_those_of_systemctl_enable() {
        let text = "[Unit]\nWantedBy=not-here.target\n[Install]\n# WantedBy=comment.target\nWantedBy=a.target \\\n ; comment\n  b.target\nRequiredBy=c.target\nAlias=other.service x.service\n";
        assert_eq!(
            paths("x.service", text),
            [
                "a.target.wants/x.service",
                "b.target.wants/x.service",
                "c.target.requires/x.service",
                "other.service"
            ]
        );
        assert!(paths("x.service", "[Service]\nExecStart=/bin/true\n").is_empty());
        assert!(paths("x.service", "[Install]\nWantedBy=a.target\nWantedBy=\n").is_empty());
        assert!(paths("x.service", "").is_empty());
    }

    #[test]
    fn no_link_lies_elsewhere() {
        let text = "[Install]\nWantedBy=../x a/b.target\nAlias=.. . \"\" a/../../b.service ../../x.service good.service\n";
        assert_eq!(paths("x.service", text), ["good.service"]);
    }

    #[test]
    fn instances_link_to_their_template() {
        let text = "[Install]\nWantedBy=multi-user.target %i.target\nDefaultInstance=tty1\n";
        assert_eq!(
            paths("getty@tty2.service", text),
            ["multi-user.target.wants/getty@tty2.service", "tty2.target.wants/getty@tty2.service"]
        );
        assert_eq!(
            paths("getty@.service", text),
            ["multi-user.target.wants/getty@tty1.service", "tty1.target.wants/getty@tty1.service"]
        );
    }
}
