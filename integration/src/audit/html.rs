//! The report as one page of HTML that needs nothing else: no script, no font, no image from anywhere.
//!
//! A matrix of attacks and drivers, coloured by what became of the driver; then a section for each attack. What comes from a
//! peer (the last words of a process, lines of a console) is escaped like everything else.

use std::fmt::Write as _;

use ironring_backend::hostile::{ABSENT, Absent, Attack, CATALOGUE};

use super::report::{AuditReport, Row};
use super::victims::{GuestOptions, Outcome, VictimRow};
use super::{AuditArgs, RingUnderTest, Target};
use crate::mirror::{MirrorRow, ROWS};

/// A column of the matrix.
struct Column {
    target: Option<Target>,
    ring: RingUnderTest,
    /// Beginning of the configurations that it is about.
    layout: &'static str,
    title: String,
}

/// What the audit was told, as far as it takes that to see the same again.
#[derive(Clone, Debug, Default)]
pub(super) struct Repeat {
    guests: GuestOptions,
    seed: u64,
    seeds: u64,
}

/// What stands in a place of the matrix.
struct Place {
    /// How it is coloured.
    kind: &'static str,
    word: String,
    detail: String,
}

impl AuditReport {
    /// The page.
    #[must_use]
    pub fn to_html(&self) -> String {
        let columns = self.columns();
        let mut page = String::new();
        let hardened = self.contained + self.escaped;
        let _ = write!(
            page,
            "{HEAD}<header><h1>ironring audit</h1><p class=lead>What happens to a virtio-net driver whose device lies.</p></header><main>"
        );
        page += "<section class=facts>";
        fact(&mut page, &self.attacks.to_string(), "attacks");
        if hardened > 0 {
            fact(&mut page, &format!("{} / {hardened}", self.contained), "cells contained by ironring");
            fact(&mut page, &self.bites_trusting.to_string(), "attacks that bite a ring that trusts");
        }
        if !self.victims.is_empty() {
            let harmed = self.victims.iter().filter(|row| row.encounter.outcome > Outcome::Named).count();
            fact(
                &mut page,
                &format!("{harmed} / {}", self.victims.len()),
                "cells in which another driver came to grief",
            );
        }
        fact(&mut page, &format!("{:.0} s", self.seconds), "in all");
        page += "</section>";
        page += LEGEND;
        self.matrix(&mut page, &columns);
        page += "<h2>Each attack</h2>";
        for attack in self.shown() {
            self.section(&mut page, attack);
        }
        self.mirror_section(&mut page);
        self.absent_section(&mut page);
        page += "</main></body></html>\n";
        page
    }

    /// The attacks of this report: those on one surface together, in the order of their numbers.
    fn shown(&self) -> Vec<&'static Attack> {
        let is_shown = |attack: &&Attack| {
            self.rows.iter().any(|row| row.attack == attack.id)
                || self.victims.iter().any(|row| row.attack == attack.id)
        };
        let mut shown: Vec<_> = CATALOGUE.iter().filter(is_shown).collect();
        shown.sort_by_key(|attack| CATALOGUE.iter().position(|first| first.surface == attack.surface));
        shown
    }

    /// What was put to the test, each layout by itself.
    fn columns(&self) -> Vec<Column> {
        let mut columns = Vec::new();
        for (ring, name) in [(RingUnderTest::Hardened, "ironring"), (RingUnderTest::Trusting, "a ring that trusts")] {
            for layout in ["split", "packed"] {
                if self.rows.iter().any(|row| row.ring == ring && row.config.starts_with(layout)) {
                    columns.push(Column { target: None, ring, layout, title: format!("{name}<br>{layout}") });
                }
            }
        }
        for target in Target::ALL {
            for layout in ["split", "packed", "bounced"] {
                if self.victims.iter().any(|row| row.target == target && row.config.starts_with(layout)) {
                    let title = format!("{}<br>{layout}", target.name());
                    columns.push(Column { target: Some(target), ring: RingUnderTest::Trusting, layout, title });
                }
            }
        }
        columns
    }

    fn matrix(&self, page: &mut String, columns: &[Column]) {
        *page += "<div class=scroll><table class=matrix><thead><tr><th>attack</th><th></th>";
        for column in columns {
            let _ = write!(page, "<th>{}</th>", column.title);
        }
        *page += "</tr></thead><tbody>";
        let mut surface = "";
        for attack in self.shown() {
            if attack.surface.name() != surface {
                surface = attack.surface.name();
                let _ = write!(page, "<tr class=group><th colspan={}>{surface}</th></tr>", columns.len() + 2);
            }
            let (id, name) = (attack.id, attack.name);
            let _ = write!(page, "<tr><th><a href=\"#{id}\">{id}</a></th><td class=name>{name}</td>");
            for column in columns {
                match self.place(attack, column) {
                    Some(Place { kind, word, detail }) => {
                        let (word, detail) = (escape(&word), escape(&detail));
                        let _ = write!(page, "<td class={kind} title=\"{detail}\">{word}</td>");
                    }
                    None => *page += "<td class=none></td>",
                }
            }
            *page += "</tr>";
        }
        *page += "</tbody></table></div>";
    }

    /// The worst of all configurations of a column.
    fn place(&self, attack: &Attack, column: &Column) -> Option<Place> {
        if let Some(target) = column.target {
            let of = |row: &&VictimRow| {
                row.target == target && row.attack == attack.id && row.config.starts_with(column.layout)
            };
            let worst = self.victims.iter().filter(of).max_by_key(|row| row.encounter.outcome)?;
            return Some(victim_place(worst));
        }
        let of =
            |row: &&Row| row.ring == column.ring && row.attack == attack.id && row.config.starts_with(column.layout);
        let rows: Vec<&Row> = self.rows.iter().filter(of).collect();
        let worst = rows.iter().min_by_key(|row| (row.held, row.verdict != "bitten"))?;
        let kind = match (column.ring, worst.held, worst.verdict.as_str()) {
            (_, false, _) => "bad",
            (RingUnderTest::Hardened, true, _) => "good",
            (_, true, "bitten") => "bitten",
            (_, true, "not-applicable") => "none",
            (_, true, _) => "plain",
        };
        let word = if kind == "none" { String::new() } else { worst.verdict.clone() };
        Some(Place { kind, word, detail: worst.oracle.join("; ") })
    }

    fn section(&self, page: &mut String, attack: &Attack) {
        let Attack { id, name, what, naive, check, reference, .. } = attack;
        let (what, naive, reference, check) = (escape(what), escape(naive), escape(reference), escape(check));
        let (class, surface) = (attack.class.name(), attack.surface.name());
        let _ = write!(
            page,
            "<article id=\"{id}\"><h3>{id} <span>{name}</span></h3><p class=tags><span>{class}</span><span>{surface}</span></p>\
             <dl><dt>What is changed</dt><dd>{what}.</dd><dt>A driver that trusts</dt><dd>{naive}.</dd>\
             <dt>What stops it</dt><dd>{check}</dd><dt>Seen before</dt><dd>{reference}</dd>"
        );
        if let Some(note) = self.only_ours(attack) {
            let _ = write!(page, "<dt>Whom it bites</dt><dd>{note}</dd>");
        }
        *page += "<dt>What happened</dt><dd><table class=cells>";
        for row in self.rows.iter().filter(|row| row.attack == *id && row.verdict != "not-applicable") {
            let kind = match (row.ring, row.held) {
                (_, false) => "bad",
                (RingUnderTest::Hardened, true) => "good",
                _ if row.verdict == "bitten" => "bitten",
                _ => "plain",
            };
            let who = if row.ring == RingUnderTest::Hardened { "ironring" } else { "a ring that trusts" };
            cell(page, who, &row.config, kind, &row.verdict, row.oracle.first().map_or("", String::as_str));
        }
        for row in self.victims.iter().filter(|row| row.attack == *id) {
            let Place { kind, word, .. } = victim_place(row);
            let evidence = row.encounter.evidence.join("; ");
            cell(page, row.target.name(), &row.config, kind, &word, &evidence);
        }
        let _ = write!(
            page,
            "</table></dd><dt>Again</dt><dd><code>{}</code></dd></dl></article>",
            escape(&self.again(attack))
        );
    }

    /// The command that strikes once more with an attack whom it struck here, with what that takes.
    fn again(&self, attack: &Attack) -> String {
        let mut command = format!("ironring audit --attack {}", attack.id);
        let own = self.rows.iter().any(|row| row.attack == attack.id).then_some(Target::Ironring);
        let struck = |target: &Target| self.victims.iter().any(|row| row.target == *target && row.attack == attack.id);
        let others: Vec<_> = Target::ALL.into_iter().filter(struck).collect();
        if !others.is_empty() {
            let names: Vec<_> = own.into_iter().chain(others.iter().copied()).map(Target::argument).collect();
            command += &format!(" --target {}", names.join(","));
        }
        command + &self.repeat.options(&others)
    }

    /// Says so where an attack bites nobody but the ring that was made for it.
    fn only_ours(&self, attack: &Attack) -> Option<&'static str> {
        let of_others = || self.victims.iter().filter(|row| row.attack == attack.id);
        let bites = self.rows.iter().any(|row| row.attack == attack.id && row.verdict == "bitten");
        let only = bites && of_others().count() > 0 && of_others().all(|row| row.encounter.outcome <= Outcome::Named);
        only.then_some("Of the drivers in this report, only the ring that trusts.")
    }

    fn mirror_section(&self, page: &mut String) {
        if self.mirror.is_empty() {
            return;
        }
        *page += "<h2>The mirror: a hostile driver, and the backend of ironring</h2><table class=cells>";
        for MirrorRow { attack, name, config, verdict, oracle, held, .. } in &self.mirror {
            let what = ROWS.iter().find(|row| row.id == attack).map_or(String::new(), |row| escape(row.what));
            let (kind, word) = (if *held { "good" } else { "bad" }, escape(&verdict.join(", ")));
            let evidence = escape(&oracle.join("; "));
            let _ = write!(
                page,
                "<tr><th>{attack}</th><td class=name>{name}</td><td>{what}</td><td class=config>{config}</td>\
                 <td class={kind}>{word}</td><td class=evidence>{evidence}</td></tr>"
            );
        }
        *page += "</table>";
    }

    fn absent_section(&self, page: &mut String) {
        if self.not_applicable.is_empty() {
            return;
        }
        *page += "<h2>What was not run</h2><table class=cells>";
        for Absent { id, name, joins_with, reason } in &ABSENT {
            let joins = joins_with.map(|feature| format!(" It joins with {feature}.")).unwrap_or_default();
            let _ = write!(page, "<tr><th>{id}</th><td>{name}</td><td>{}.{joins}</td></tr>", escape(reason));
        }
        *page += "</table>";
    }
}

impl Repeat {
    pub(super) fn of(args: &AuditArgs) -> Self {
        Self { guests: args.guests.clone(), seed: args.seed, seeds: args.seeds }
    }

    /// The options of an audit of drivers of `others` that are not those by themselves.
    fn options(&self, others: &[Target]) -> String {
        let GuestOptions { kernel, modules, cmdline, cards } = &self.guests;
        let mut options = Vec::new();
        let mut add = |name: &str, value: String| options.push(format!(" --{name} {}", quoted(&value)));
        if others.iter().any(|target| [Target::Qemu, Target::Dpdk].contains(target)) && !cards.is_empty() {
            add("cards", cards.join(","));
        }
        if others.contains(&Target::Qemu) {
            let files = [("kernel", kernel), ("modules", modules)];
            files.into_iter().for_each(|(name, file)| {
                file.iter().for_each(|file| add(name, file.display().to_string()));
            });
            if !cmdline.is_empty() {
                add("cmdline", cmdline.clone());
            }
        }
        for (name, value) in [("seed", self.seed), ("seeds", self.seeds)] {
            if value > 1 {
                add(name, value.to_string());
            }
        }
        options.concat()
    }
}

/// A word of a command as a shell takes it for one.
fn quoted(word: &str) -> String {
    let is_plain = |character: char| character.is_ascii_alphanumeric() || "-_./,:=+".contains(character);
    if word.chars().all(is_plain) { word.to_owned() } else { format!("'{}'", word.replace('\'', "'\\''")) }
}

fn victim_place(row: &VictimRow) -> Place {
    let kind = match row.encounter.outcome {
        Outcome::NotStruck => "none",
        Outcome::Unharmed => "plain",
        Outcome::Named => "good",
        Outcome::Misled | Outcome::Stuck => "bitten",
        Outcome::Hung | Outcome::Crashed | Outcome::Harmed => "bad",
    };
    Place { kind, word: row.encounter.outcome.name().to_owned(), detail: row.encounter.evidence.join("; ") }
}

fn cell(page: &mut String, who: &str, config: &str, kind: &str, word: &str, evidence: &str) {
    let (word, evidence) = (escape(word), escape(evidence));
    let _ = write!(
        page,
        "<tr><td>{who}</td><td class=config>{config}</td><td class={kind}>{word}</td><td class=evidence>{evidence}</td></tr>"
    );
}

fn fact(page: &mut String, number: &str, what: &str) {
    let _ = write!(page, "<div><b>{number}</b>{what}</div>");
}

/// Text for HTML. Control characters of a peer's last words do not come through.
pub(crate) fn escape(text: &str) -> String {
    let mut safe = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '&' => safe += "&amp;",
            '<' => safe += "&lt;",
            '>' => safe += "&gt;",
            '"' => safe += "&quot;",
            '\'' => safe += "&#39;",
            control if control.is_control() => safe.push(' '),
            other => safe.push(other),
        }
    }
    safe
}

const HEAD: &str = "<!doctype html><html lang=en><head><meta charset=utf-8><title>ironring audit</title>\
<meta name=viewport content=\"width=device-width\"><style>\
:root{--ink:#1c2330;--soft:#667085;--line:#e4e7ec;--good:#d7f0df;--goodink:#11632f;--bad:#b42318;--bitten:#fde3c8;--bittenink:#8a4a05}\
*{box-sizing:border-box}body{margin:0;font:15px/1.5 system-ui,-apple-system,'Segoe UI',sans-serif;color:var(--ink);background:#fbfbfc}\
header{background:#101828;color:#fff;padding:28px 40px}h1{margin:0;font-size:26px}.lead{margin:4px 0 0;color:#c3cad6}\
main{max-width:1480px;margin:0 auto;padding:24px 40px 80px}h2{margin:44px 0 14px;font-size:20px}\
.facts{display:flex;flex-wrap:wrap;gap:16px;margin-bottom:18px}.facts div{background:#fff;border:1px solid var(--line);border-radius:10px;padding:12px 18px;color:var(--soft)}\
.facts b{display:block;font-size:22px;color:var(--ink)}.legend{color:var(--soft);margin:6px 0 14px}.legend span{padding:2px 8px;border-radius:4px;margin-right:4px}\
.scroll{overflow-x:auto}table{border-collapse:collapse}.matrix{background:#fff;border:1px solid var(--line);font-size:13px;width:100%}\
.matrix thead th{position:sticky;top:0;background:#f2f4f7;z-index:1;font-weight:600;line-height:1.25}.matrix th,.matrix td{padding:4px 10px;border-bottom:1px solid var(--line);text-align:left;white-space:nowrap}\
.matrix td:not(.name){border-left:1px solid var(--line)}.matrix .group th{background:#f8f9fb;color:var(--soft);font-weight:600;text-transform:uppercase;font-size:11px;letter-spacing:.06em}\
a{color:#175cd3;text-decoration:none}.name{color:var(--soft);font-family:ui-monospace,monospace;font-size:12px}\
.good{background:var(--good);color:var(--goodink)}.bitten{background:var(--bitten);color:var(--bittenink)}.bad{background:var(--bad);color:#fff}.plain{background:#f5f6f8;color:#475467}.none{color:#98a2b3}\
article{background:#fff;border:1px solid var(--line);border-radius:10px;padding:14px 20px;margin:12px 0}article:target{border-color:#175cd3;box-shadow:0 0 0 2px #175cd333}\
h3{margin:0;font-size:17px}h3 span{font-family:ui-monospace,monospace;font-weight:400;color:var(--soft);font-size:14px;margin-left:8px}\
.tags{margin:4px 0 8px}.tags span{font-size:12px;background:#eef2f6;border-radius:4px;padding:1px 8px;margin-right:6px;color:#475467}\
dl{display:grid;grid-template-columns:150px 1fr;gap:4px 16px;margin:0}dt{color:var(--soft)}dd{margin:0}\
.cells{font-size:13px}.cells td,.cells th{padding:2px 10px 2px 0;text-align:left;vertical-align:top}.cells td.good,.cells td.bad,.cells td.bitten,.cells td.plain{padding:2px 8px;border-radius:4px}\
.config{font-family:ui-monospace,monospace;color:var(--soft)}.evidence{color:var(--soft);padding-left:10px!important;overflow-wrap:anywhere}code{background:#f2f4f7;padding:1px 6px;border-radius:4px}\
@media(max-width:700px){main,header{padding-left:16px;padding-right:16px}dl{grid-template-columns:1fr}}\
</style></head><body>";

const LEGEND: &str = "<p class=legend><span class=good>contained</span>as declared, or named by the driver \
<span class=plain>unharmed</span>nothing that a watcher could see \
<span class=bitten>bitten</span>it fell for it \
<span class=bad>escaped</span>not as declared; for drivers of others: hung, crashed, or memory harmed</p>";

#[cfg(test)]
mod tests {
    use super::*;
    use crate::audit::cell::CellResult;
    use crate::audit::victims::Encounter;
    use crate::config::RingConfig;

    #[test]
    fn what_a_peer_says_is_text_and_nothing_else() {
        assert_eq!(escape("<b onload='x'>\"&\u{1b}[0m"), "&lt;b onload=&#39;x&#39;&gt;&quot;&amp; [0m");
    }

    #[test]
    fn a_page_without_results_is_a_page() {
        let page = AuditReport::new(0).to_html();
        assert!(page.starts_with("<!doctype html>") && page.ends_with("</html>\n"));
        assert!(!page.contains("http"), "it needs nothing from anywhere");
    }

    /// A report with a row for each attack, of a ring that was struck.
    fn report_of_all() -> AuditReport {
        let mut report = AuditReport::new(CATALOGUE.len());
        for attack in CATALOGUE.iter() {
            report.add(attack, RingConfig::default(), RingUnderTest::Hardened, CellResult::default());
        }
        report
    }

    #[test]
    fn each_surface_has_one_heading() {
        let page = report_of_all().to_html();
        let headings: Vec<_> = page.split("<tr class=group>").skip(1).filter_map(|row| row.split('<').nth(1)).collect();
        let unique: std::collections::BTreeSet<_> = headings.iter().collect();
        assert!(headings.len() > 5, "{headings:?}");
        assert_eq!(unique.len(), headings.len(), "{headings:?}");
    }

    #[test]
    fn a_command_that_strikes_again_has_all_that_it_takes() {
        let mut report = report_of_all();
        let victim = |target, attack: &str| VictimRow {
            target,
            attack: attack.to_owned(),
            config: "split".to_owned(),
            encounter: Encounter::default(),
        };
        report.victims = vec![victim(Target::Qemu, "A01"), victim(Target::Dpdk, "A01"), victim(Target::Dpdk, "A02")];
        report.repeat = Repeat {
            guests: GuestOptions {
                kernel: Some("/boot/my kernel".into()),
                modules: Some("/lib/modules/6".into()),
                cmdline: "a=1 b".into(),
                cards: vec!["split".into(), "bounced".into()],
            },
            seed: 1,
            seeds: 4,
        };
        let again = |id| report.again(ironring_backend::hostile::find(id).unwrap());
        assert_eq!(
            again("A01"),
            "ironring audit --attack A01 --target ironring,qemu,dpdk --cards split,bounced --kernel '/boot/my kernel' \
             --modules /lib/modules/6 --cmdline 'a=1 b' --seeds 4"
        );
        assert_eq!(again("A02"), "ironring audit --attack A02 --target ironring,dpdk --cards split,bounced --seeds 4");
        assert_eq!(again("A03"), "ironring audit --attack A03 --seeds 4");
    }
}
