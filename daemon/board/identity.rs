//! What the board is called, and what runs on it.

use crate::board::files::Files;

/// Names, where the board says them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Identity {
    /// The device tree's, or the firmware's product name on a PC.
    pub model: Option<String>,
    /// `36.4.3`: the Linux for Tegra that JetPack brought.
    pub l4t: Option<String>,
    /// `JetPack 6`; of the L4T release.
    pub jetpack: Option<&'static str>,
    /// `15W`; the mode that `nvpmodel` set.
    pub power_mode: Option<String>,
}

/// Reads the names.
pub fn read(files: &Files) -> Identity {
    let model = files.text(&files.proc("device-tree/model"));
    let model = model.or_else(|| files.text(&files.sys("devices/virtual/dmi/id/product_name")));
    let release = files.text(&files.etc("nv_tegra_release")).unwrap_or_default();
    let l4t = l4t(&release);
    let jetpack = l4t.as_deref().and_then(jetpack);
    Identity { model: model.filter(|model| !model.is_empty()), l4t, jetpack, power_mode: power_mode(files) }
}

/// `# R36 (release), REVISION: 4.3, …` is 36.4.3.
fn l4t(release: &str) -> Option<String> {
    let line = release.lines().next()?;
    let major = line.strip_prefix("# R")?.split_whitespace().next()?;
    let revision = line.split_once("REVISION:")?.1.split(',').next()?.trim();
    (!major.is_empty() && major.bytes().all(|byte| byte.is_ascii_digit())).then(|| format!("{major}.{revision}"))
}

fn jetpack(l4t: &str) -> Option<&'static str> {
    match l4t.split('.').next()? {
        "32" => Some("JetPack 4"),
        "34" | "35" => Some("JetPack 5"),
        "36" => Some("JetPack 6"),
        "38" | "39" => Some("JetPack 7"),
        _ => None,
    }
}

/// The mode's number from `nvpmodel`'s own note, its name from the table that it was chosen from. Asking the program would
/// need root.
fn power_mode(files: &Files) -> Option<String> {
    let status = files.text(&files.var("lib/nvpmodel/status"))?;
    let number: u32 = status.lines().find_map(|line| line.trim().strip_prefix("pmode:"))?.trim().parse().ok()?;
    let table = files.text(&files.etc("nvpmodel.conf")).unwrap_or_default();
    let name = table.lines().find_map(|line| {
        let mode = line.trim().strip_prefix("< POWER_MODEL")?;
        let value = |key: &str| mode.split_whitespace().find_map(|word| word.strip_prefix(key)?.strip_prefix('='));
        (value("ID")?.parse() == Ok(number)).then(|| value("NAME").map(str::to_owned))?
    });
    Some(name.unwrap_or_else(|| format!("mode {number}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn releases_are_named() {
        let text = "# R36 (release), REVISION: 4.3, GCID: 38968081, BOARD: generic, EABI: aarch64, DATE: Wed Jan  8 01:49:37 UTC 2025";
        assert_eq!(l4t(text).as_deref(), Some("36.4.3"));
        assert_eq!(l4t("").as_deref(), None);
        assert_eq!(l4t("# Rx (release), REVISION: 1").as_deref(), None);
        assert_eq!(jetpack("35.6.4"), Some("JetPack 5"));
        assert_eq!(jetpack("99.1"), None);
    }
}
