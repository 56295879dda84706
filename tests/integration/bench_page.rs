//! The page of `ramferry bench --report`, opened in a browser: no error is logged, every chart has as
//! many marks as the data has points, and no text is cut off or overlaps another.

use std::path::Path;
use std::process::Command;

use serde_json::Value;

use crate::support::qemu::qemu_or_skip;
use crate::support::*;

/// What a browser makes of a page; `None` if there is no browser.
fn drawn(folder: &Folder, page: &Path) -> Option<String> {
    if Command::new("chromium").arg("--version").output().is_err() {
        crate::support::qemu::skipped("chromium is not installed");
        return None;
    }
    let profile = folder.path("profile");
    let browser = Command::new("chromium")
        .args(["--headless", "--no-sandbox", "--disable-gpu"])
        .args(["--enable-logging=stderr", "--dump-dom"])
        .arg(format!("--user-data-dir={}", profile.display()))
        .arg(format!("file://{}", page.display()))
        .output()
        .unwrap();
    let complaints = String::from_utf8_lossy(&browser.stderr);
    assert!(!complaints.contains("CONSOLE"), "{complaints}");
    Some(String::from_utf8_lossy(&browser.stdout).into_owned())
}

/// The part of a page with this heading.
#[track_caller]
fn section<'a>(page: &'a str, heading: &str) -> &'a str {
    let (_, rest) = page
        .split_once(&format!("<h2>{heading}</h2>"))
        .unwrap_or_else(|| panic!("no {heading:?}"));
    rest.split_once("</section>").unwrap().0
}

fn list<'a>(value: &'a Value, name: &str) -> &'a Vec<Value> {
    value[name].as_array().unwrap()
}

/// The stages of a setting that took any time, on both sides.
fn stages(setting: &Value) -> usize {
    let runs = list(setting, "runs");
    let sides = ["source-cpu-seconds", "destination-cpu-seconds"];
    let of_side = |side: &&str| {
        let mut names: Vec<&String> = runs
            .iter()
            .flat_map(|run| run[*side].as_object().unwrap().keys())
            .filter(|name| *name != "total")
            .collect();
        names.sort();
        names.dedup();
        let some = |name: &&String| {
            let seconds = |run: &&Value| run[*side][name.as_str()].as_f64().unwrap_or(0.0) > 0.0;
            // The median is more than nothing.
            2 * runs.iter().filter(seconds).count() > runs.len()
        };
        names.into_iter().filter(|name| some(name)).count()
    };
    sides.iter().map(of_side).sum()
}

/// What a script in the page finds wrong with its pictures, a line each.
const LOOK: &str = "<pre id=found></pre><script>
const found = [];
for (const svg of document.querySelectorAll('svg')) {
  const box = svg.viewBox.baseVal, what = svg.getAttribute('aria-label');
  const texts = [...svg.querySelectorAll('text:not([transform])')].map(text => [text.textContent, text.getBBox()]);
  for (const [words, at] of texts)
    if (at.x < -1 || at.y < -1 || at.x + at.width > box.width + 1 || at.y + at.height > box.height + 1)
      found.push(what + ': cut off: ' + words);
  for (const [i, [words, a]] of texts.entries())
    for (const [others, b] of texts.slice(i + 1))
      if (a.x + 2 < b.x + b.width && b.x + 2 < a.x + a.width && a.y + 4 < b.y + b.height && b.y + 4 < a.y + a.height)
        found.push(what + ': ' + words + ' overlaps ' + others);
  for (const mark of svg.querySelectorAll('.mark')) {
    const at = mark.getBBox();
    if (!(at.x >= 0 && at.y >= 0 && at.x + at.width <= box.width + 1 && at.y + at.height <= box.height))
      found.push(what + ': a mark is outside');
    if (getComputedStyle(mark).fill == 'rgb(0, 0, 0)') found.push(what + ': a mark has no colour');
  }
}
if (document.documentElement.scrollWidth > innerWidth) found.push('the page is wider than its window');
document.getElementById('found').textContent = found.join('\\n') + '.';
</script>";

#[test]
fn the_page_is_drawn_by_a_browser_with_every_mark_and_without_a_complaint() {
    watchdog!();
    let folder = Folder::in_memory();
    let pages: Vec<Page> = mixed(512, 5);
    let first = folder.image("first", &pages).display().to_string();
    let second = folder.image("second", &later(&pages, 6));
    let second = second.display().to_string();
    let (html, json) = (folder.path("r.html"), folder.path("r.json"));
    let (report, export) = (html.display().to_string(), json.display().to_string());
    let mut args = vec!["bench", "--quiet", &first, "--then", &second];
    args.extend(["--methods", "zstd:1,lz4,none", "--compress-threads", "1,2"]);
    args.extend(["--links", "unlimited,1Gbit", "--transport", "tcp"]);
    args.extend(["--report", &report, "--export-json", &export]);
    let peer = qemu_or_skip().map(|qemu| format!("qemu:{}", qemu.program()));
    args.extend(peer.iter().flat_map(|peer| ["--peer", peer]));
    run(&args).succeeded();
    let Some(page) = drawn(&folder, &html) else {
        return;
    };

    let document: Value = serde_json::from_str(&std::fs::read_to_string(&json).unwrap()).unwrap();
    let (settings, peers) = (list(&document, "settings"), list(&document, "peers"));
    assert_eq!((settings.len(), peers.is_empty()), (12, peer.is_none()));
    let measured = peers.iter().filter(|peer| !peer["time"].is_null()).count();
    let counted = peers.iter().filter(|peer| !peer["wire-bytes"].is_null());
    let classes = document["image"]["pages"].as_object().unwrap().values();
    let expected = [
        // Six over each link, and of the peers those that count their bytes.
        ("Time against bytes, link unlimited", 6 + counted.count()),
        ("Time against bytes, link 1Gbit", 6),
        ("Time against the link's rate", 12),
        ("Compression threads, link unlimited", 6),
        ("Compression threads, link 1Gbit", 6),
        (
            "CPU seconds by side and stage",
            settings.iter().map(stages).sum::<usize>() + 2 * measured,
        ),
        // The plain copy and none have one mark, what compresses has three.
        ("The codec alone and in the pipeline", 1 + 2 + 4 * 3),
        ("Delta rounds", 6),
        (
            "The pages of the image",
            classes.filter(|count| count.as_u64() > Some(0)).count(),
        ),
    ];
    let marks = |text: &str| text.matches("class=\"mark ").count();
    for (heading, points) in expected {
        let section = section(&page, heading);
        assert_eq!(marks(section), points, "{heading}");
        assert!(section.contains("<summary>Table: "), "{heading}");
    }
    let all = expected.iter().map(|(_, points)| points).sum::<usize>();
    assert_eq!(marks(&page), all, "there are other charts");

    let text = std::fs::read_to_string(&html).unwrap();
    let looked_at = folder.path("looked-at.html");
    std::fs::write(
        &looked_at,
        text.replace("</body>", &format!("{LOOK}</body>")),
    )
    .unwrap();
    let page = drawn(&folder, &looked_at).unwrap();
    let (_, found) = page.split_once("<pre id=\"found\">").unwrap();
    let (found, _) = found.split_once("</pre>").unwrap();
    assert_eq!(found, ".", "{found}");
}
