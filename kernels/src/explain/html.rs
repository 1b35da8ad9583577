//! A block as HTML for notebooks: one fragment, no script, nothing fetched.
//!
//! Colours are those of Okabe and Ito, which people with any kind of colour vision tell apart, with black
//! text on them; everything else takes the page's own colours, light or dark. No colour says anything that a
//! word does not say too.

use std::fmt::Write as _;

use super::text::short;
use super::{Explanation, number};
use crate::format::{Field, Holds, Kind};

/// Bytes in a row.
const ROW: usize = 16;
/// Weights and codes in a row.
const CELLS: usize = 16;

const STYLE: &str = "\
.tritlab-block{font:13px/1.5 ui-monospace,SFMono-Regular,Menlo,Consolas,monospace;max-width:62em}
.tritlab-block p{margin:.4em 0}
.tritlab-block h4{font-size:1em;margin:.9em 0 .3em}
.tritlab-block table{border-collapse:collapse;margin:.3em 0;font:inherit;color:inherit;background:none}
.tritlab-block td,.tritlab-block th{padding:.05em .4em;text-align:right;border:0;background:none;\
color:inherit;font-weight:normal;white-space:nowrap}
.tritlab-block th{opacity:.7}
.tritlab-block td.w,.tritlab-block th.w{text-align:left;white-space:normal}
.tritlab-block td.n{text-align:left}
.tritlab-block td.q{min-width:1.8em}
.tritlab-block td.b{color:#000;border:1px solid rgba(128,128,128,.55);text-align:center}
.tritlab-block tbody tr:hover td.b{outline:1px solid currentColor}
.tritlab-block .k{color:#000;padding:0 .5em;border:1px solid rgba(128,128,128,.55)}
.tritlab-block pre{font:inherit;color:inherit;background:none;margin:.3em 0;white-space:pre;overflow-x:auto}
.tritlab-block summary{cursor:pointer}
.tritlab-block .s{overflow-x:auto}
";

/// The colour of a field.
fn colour(holds: Holds) -> &'static str {
    match holds {
        Holds::Scale => "#E69F00",
        Holds::Min | Holds::Lowest => "#CC79A7",
        Holds::SubScales => "#56B4E9",
        Holds::Codes | Holds::Element => "#009E73",
        Holds::HighBits => "#F0E442",
    }
}

/// Text as HTML.
fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

impl Explanation {
    /// A drawing for notebooks: bytes coloured by field, the numbers in them, the weights, and the first
    /// weight step by step. One self-contained HTML element; a byte's tooltip says what is in it.
    pub fn to_html(&self) -> String {
        let mut out = format!("<div class=\"tritlab-block\"><style>{STYLE}</style>");
        let _ = write!(
            out,
            "<p><b>{}</b><br>{}</p><p>{}</p>",
            escape(&self.title()),
            escape(self.format.info().summary),
            escape(&self.formula())
        );
        self.html_fields(&mut out);
        self.html_bytes(&mut out);
        if self.plain().is_some() {
            self.html_bits(&mut out);
            self.html_codes(&mut out);
            self.html_weights(&mut out);
        }
        if let Ok(trace) = self.trace(0) {
            let _ = write!(
                out,
                "<details><summary>w[0] step by step</summary><pre>{}</pre></details>",
                escape(&trace.to_string())
            );
        }
        out + "</div>"
    }

    /// The legend.
    fn html_fields(&self, out: &mut String) {
        out.push_str("<table><thead><tr><th class=\"w\">field</th><th>bytes</th>");
        out.push_str("<th class=\"w\">holds</th></tr></thead><tbody>");
        for field in self.fields() {
            let last = field.at + field.len - 1;
            let bytes =
                if field.len == 1 { last.to_string() } else { format!("{}–{last}", field.at) };
            let _ = write!(
                out,
                "<tr><td class=\"w\"><span class=\"k\" style=\"background:{}\">{}</span></td>\
                 <td>{bytes}</td><td class=\"w\">{}</td></tr>",
                colour(field.holds),
                field.name,
                escape(&self.meaning(field))
            );
        }
        out.push_str("</tbody></table>");
    }

    /// The bytes, a row of cells for every 16, each field on rows of its own.
    fn html_bytes(&self, out: &mut String) {
        out.push_str("<h4>bytes</h4><div class=\"s\"><table><tbody>");
        for field in self.fields() {
            for (n, row) in self.bytes[field.range()].chunks(ROW).enumerate() {
                let first = field.at + n * ROW;
                let name = if n == 0 { field.name } else { "" };
                let _ = write!(out, "<tr><th class=\"w\">{name}</th><th>{first}</th>");
                for (i, byte) in row.iter().enumerate() {
                    let at = first + i;
                    let _ = write!(
                        out,
                        "<td class=\"b\" style=\"background:{}\" title=\"{}\">{byte:02x}</td>",
                        colour(field.holds),
                        escape(&self.tooltip(field, at, *byte))
                    );
                }
                out.push_str("</tr>");
            }
        }
        out.push_str("</tbody></table></div>");
    }

    /// What is in which bits, for one byte of each arrangement.
    fn html_bits(&self, out: &mut String) {
        out.push_str("<h4>bits, the highest first</h4><div class=\"s\"><table><tbody>");
        for (byte, numbers) in self.places() {
            let numbers = escape(&numbers.join(" | "));
            let _ = write!(out, "<tr><th>byte {byte}</th><td class=\"n\">{numbers}</td></tr>");
        }
        out.push_str("</tbody></table></div>");
    }

    fn tooltip(&self, field: &Field, at: usize, byte: u8) -> String {
        let inside = match (field.holds, &self.format.info().kind) {
            (_, Kind::Dense { .. }) | (Holds::Scale | Holds::Min | Holds::Lowest, _) => {
                field.about.to_owned()
            }
            _ => self.caption(at),
        };
        format!("byte {at}, {}: {byte:08b}; {inside}", field.name)
    }

    /// Codes in rows, with the numbers of their sub-block before them.
    fn html_codes(&self, out: &mut String) {
        let block = self.format.info().block;
        let sub = self.plain.sub_len < block;
        let minima = sub && self.minimum().is_some();
        out.push_str("<h4>codes</h4><div class=\"s\"><table><thead><tr>");
        for (name, shown) in [("k", sub), ("scale", sub), ("min", minima)] {
            if shown {
                let _ = write!(out, "<th>{name}</th>");
            }
        }
        let _ = write!(out, "<th></th><th class=\"w\" colspan=\"{CELLS}\">q[i]</th>");
        out.push_str("</tr></thead><tbody>");
        for first in (0..block).step_by(CELLS) {
            let k = first / self.plain.sub_len;
            out.push_str("<tr>");
            let starts = first % self.plain.sub_len == 0;
            for (value, shown) in
                [(k as i16, sub), (self.plain.sub[k], sub), (self.plain.sub_min[k], minima)]
            {
                let text = if starts { number(f32::from(value)) } else { String::new() };
                if shown {
                    let _ = write!(out, "<td>{text}</td>");
                }
            }
            let _ = write!(out, "<th>q[{first}]</th>");
            for q in &self.plain.q[first..block.min(first + CELLS)] {
                let _ = write!(out, "<td class=\"q\">{}</td>", number(f32::from(*q)));
            }
            out.push_str("</tr>");
        }
        out.push_str("</tbody></table></div>");
    }

    fn html_weights(&self, out: &mut String) {
        let weights = self.weights();
        let open = if weights.len() <= 32 { " open" } else { "" };
        let _ = write!(
            out,
            "<details{open}><summary>weights{}</summary><div class=\"s\"><table><tbody>",
            escape(&self.unit())
        );
        for (n, row) in weights.chunks(8).enumerate() {
            let _ = write!(out, "<tr><th>w[{}]</th>", n * 8);
            for w in row {
                let _ = write!(out, "<td title=\"{}\">{}</td>", number(*w), short(*w));
            }
            out.push_str("</tr>");
        }
        out.push_str("</tbody></table></div></details>");
    }
}
