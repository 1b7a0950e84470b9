//! Results as one page of HTML that needs nothing else: no script, no font, no image from anywhere.

use std::fmt::Write as _;

use super::plot::{self, Mark};
use super::result::{BenchReport, Forward};
use super::sums::Ratio;
use super::table::{Reaches, RowResult, TableReport};
use crate::audit::escape;

impl BenchReport {
    /// The page of one result.
    #[must_use]
    pub fn to_html(&self) -> String {
        let mut page = head(&self.config.work.sentence());
        page += "<section class=facts>";
        fact(&mut page, &format!("{:.1}", self.mpps.median), "million frames a second");
        fact(&mut page, &format!("{:.1} ns", self.ns_per_packet), "a frame");
        if let Some(vs) = &self.vs {
            fact(&mut page, &format!("{:.2}×", vs.ratio.median), &format!("as fast as {}", vs.name));
        }
        fact(&mut page, &format!("{:.0} %", 100.0 * self.limit_share.median), "of what the machine can stream");
        if let Some([half, ..]) = self.percentiles_ns {
            fact(&mut page, &format!("{half} ns"), "half of the round trips are faster");
        }
        page += "</section>";
        self.body(&mut page);
        page + NOTES + "</main></body></html>\n"
    }

    /// Plot, numbers and warnings.
    fn body(&self, page: &mut String) {
        for warning in &self.warnings {
            let _ = write!(page, "<p class=warning>{}</p>", escape(warning));
        }
        *page += &plot::bars(&self.samples);
        *page += "<dl>";
        if let Some(vs) = &self.vs {
            say(page, &format!("ratio to {}", vs.name), &between(&vs.ratio));
        }
        if let Some(noise) = &self.noise_floor {
            say(page, "the same against itself", &between(noise));
        }
        say(page, "share of the limit", &between(&self.limit_share));
        say(page, "the two CPUs", &escape(&self.cpus.to_string()));
        if let Some([half, slow, slowest]) = self.percentiles_ns {
            say(page, "round trips", &format!("50 % {half} ns, 99 % {slow} ns, 99.9 % {slowest} ns"));
        }
        let config = &self.config;
        let mut how = vec![
            format!("ring of {}", config.work.ring_size),
            format!("bursts of {}", config.work.burst),
            format!("in order {}", if config.work.in_order { "on" } else { "off" }),
            format!("{} samples of {} s", config.samples, config.seconds),
        ];
        if config.work.hugepages {
            how.push("huge pages".to_owned());
        }
        let other = self.vs.as_ref().and_then(|vs| vs.dpdk_path);
        for path in [config.dpdk_path, other].into_iter().flatten() {
            how.push(format!("virtio-user {}", path.name()));
        }
        if let Some(forward) = config.dpdk_forward.filter(|forward| *forward != Forward::Io) {
            how.push(format!("testpmd {}", forward.name()));
        }
        say(page, "how", &how.join(", "));
        for core in self.dpdk_cores.iter().chain(&self.driver_cores) {
            say(page, "recorded", &core.to_string());
        }
        for skipped in &self.skipped {
            say(page, "not the same", skipped);
        }
        *page += "</dl>";
    }
}

impl TableReport {
    /// The page of all rows.
    #[must_use]
    pub fn to_html(&self) -> String {
        let mut page = head("Each row in turn with its opponent, on two CPUs of this machine.");
        page += "<section class=facts>";
        for (reaches, what) in [
            (Reaches::Yes, "rows reach their target"),
            (Reaches::Unsure, "cannot be told from it"),
            (Reaches::No, "do not reach it"),
            (Reaches::Failed, "could not be measured"),
        ] {
            let count = self.rows.iter().filter(|row| row.reaches == reaches).count();
            if count > 0 || reaches == Reaches::Yes {
                fact(&mut page, &count.to_string(), what);
            }
        }
        page += "</section><h2>Ratios</h2>";
        let marks: Vec<Mark<'_>> = self.rows.iter().filter_map(RowResult::mark).collect();
        page += &plot::intervals(&marks);
        page += "<div class=scroll><table><thead><tr><th>row<th>work<th>ours<th>against<th class=n>target<th class=n>ratio\
                 <th class=n>95 %<th>reaches<th class=n>noise</tr></thead><tbody>";
        for row in &self.rows {
            let RowResult { row: name, work, pairing, vs, target, .. } = row;
            let numbers = row.ratio.map_or_else(
                || ["–".to_owned(), "–".to_owned()],
                |ratio| [format!("{:.2}", ratio.median), format!("{:.2} to {:.2}", ratio.ci95[0], ratio.ci95[1])],
            );
            let [ratio, interval] = numbers;
            let noise = row.noise.map_or_else(|| "–".to_owned(), |noise| format!("{:.0} %", 100.0 * noise.width()));
            let (kind, reaches) = (row.reaches.kind(), row.reaches.name());
            let _ = write!(
                page,
                "<tr><td><a href=\"#{name}\">{name}</a><td>{work}<td>{pairing}<td>{vs}<td class=n>{target}<td class=n>{ratio}\
                 <td class=n>{interval}<td class={kind}>{reaches}<td class=n>{noise}</tr>"
            );
        }
        page += "</tbody></table></div><h2>Each row</h2>";
        for RowResult { row, work, result, error, .. } in &self.rows {
            let _ = write!(page, "<article id=\"{row}\"><h3>{work} <span>{row}</span></h3>");
            if let Some(result) = result {
                result.body(&mut page);
            }
            if let Some(error) = error {
                let _ = write!(page, "<p class=warning>{}</p>", escape(error));
            }
            page += "</article>";
        }
        page + NOTES + "</main></body></html>\n"
    }
}

impl RowResult {
    fn mark(&self) -> Option<Mark<'_>> {
        let ratio = self.ratio?;
        Some(Mark { name: &self.row, ratio, target: self.target, kind: self.reaches.kind() })
    }
}

fn head(lead: &str) -> String {
    format!("{HEAD}<header><h1>ironring bench</h1><p class=lead>{lead}</p></header><main>")
}

fn fact(page: &mut String, number: &str, what: &str) {
    let _ = write!(page, "<div><b>{number}</b>{what}</div>");
}

fn say(page: &mut String, what: &str, words: &str) {
    let _ = write!(page, "<dt>{what}<dd>{}", escape(words));
}

fn between(ratio: &Ratio) -> String {
    let [low, high] = ratio.ci95;
    format!("{:.3}, 95 % of the time {low:.3} to {high:.3}", ratio.median)
}

const HEAD: &str = "<!doctype html><html lang=en><head><meta charset=utf-8><title>ironring bench</title>\
<meta name=viewport content=\"width=device-width\"><style>\
:root{--ink:#1c2330;--soft:#667085;--line:#e4e7ec;--bar:#b2ccff;--dot:#175cd3;--good:#11632f;--bad:#b42318;--unsure:#b54708}\
*{box-sizing:border-box}body{margin:0;font:15px/1.5 system-ui,-apple-system,'Segoe UI',sans-serif;color:var(--ink);background:#fbfbfc}\
header{background:#101828;color:#fff;padding:28px 40px}h1{margin:0;font-size:26px}.lead{margin:4px 0 0;color:#c3cad6}\
main{max-width:1120px;margin:0 auto;padding:24px 40px 80px}h2{margin:44px 0 14px;font-size:20px}\
.facts{display:flex;flex-wrap:wrap;gap:16px;margin-bottom:22px}.facts div{background:#fff;border:1px solid var(--line);border-radius:10px;padding:12px 18px;color:var(--soft)}\
.facts b{display:block;font-size:22px;color:var(--ink)}\
svg{display:block;width:100%;background:#fff;border:1px solid var(--line);border-radius:10px;padding:12px 8px 6px}\
svg .name{font-size:13px;fill:var(--ink)}svg .tick{font-size:11px;fill:var(--soft)}svg .value{font-size:12px;fill:var(--soft)}\
.grid{stroke:var(--line)}.one{stroke:#98a2b3;stroke-dasharray:3 3}.bar{fill:var(--bar)}.limit{fill:#e4e7ec}.dot{fill:var(--dot);fill-opacity:.75}\
.whisker{stroke:#475467;fill:none;stroke-width:1.2}.target{stroke:var(--ink);stroke-width:2}.span{stroke-width:3;stroke-linecap:round}\
g.good{fill:var(--good);stroke:var(--good)}g.bad{fill:var(--bad);stroke:var(--bad)}g.unsure{fill:var(--unsure);stroke:var(--unsure)}\
.scroll{overflow-x:auto;margin-top:20px}table{border-collapse:collapse;background:#fff;border:1px solid var(--line);font-size:13px;width:100%}\
th,td{padding:5px 10px;border-bottom:1px solid var(--line);text-align:left;white-space:nowrap}th{background:#f2f4f7}.n{text-align:right;font-variant-numeric:tabular-nums}\
td.good{color:var(--good);font-weight:600}td.bad{color:var(--bad);font-weight:600}td.unsure{color:var(--unsure);font-weight:600}td.none{color:var(--soft)}\
a{color:#175cd3;text-decoration:none}article{background:#fff;border:1px solid var(--line);border-radius:10px;padding:14px 20px 18px;margin:14px 0}\
article svg{border:0;padding:8px 0 0}article:target{border-color:#175cd3;box-shadow:0 0 0 2px #175cd333}\
h3{margin:0 0 4px;font-size:17px}h3 span{font-family:ui-monospace,monospace;font-weight:400;color:var(--soft);font-size:13px;margin-left:8px}\
dl{display:grid;grid-template-columns:190px 1fr;gap:4px 16px;margin:14px 0 0}dt{color:var(--soft)}dd{margin:0}\
.warning{background:#fef0c7;border-radius:8px;padding:8px 14px;color:#7a2e0e;margin:10px 0}.notes{color:var(--soft);margin-top:36px}\
@media(max-width:700px){main,header{padding-left:16px;padding-right:16px}dl{grid-template-columns:1fr}}\
</style></head><body>";

const NOTES: &str = "<p class=notes>A bar ends at the median, the line goes from the least to the most, each dot is a sample of two fresh \
processes; <i>again</i> is the first pairing a second time in each round, <i>limit</i> what two CPUs can stream with as many lines of \
cache and no ring at all. A sent frame is copied in from buffers that rotate through 2 MiB, a received one is copied out and its header \
read. DPDK lends its buffers instead of copying them on the driver's side. Two CPUs of one machine; no guest.</p>";
