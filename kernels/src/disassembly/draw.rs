//! A disassembly as text and as HTML.

use std::fmt::{self, Display, Formatter};

use super::{COMPILER, Counts, Disassembly, Instruction, Kind};

/// Up to two digits after the point, and none where they are zeros.
fn number(x: f64) -> String {
    let text = format!("{x:.2}");
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

impl Display for Counts {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let parts = [
            ("dot products", self.dots),
            ("shuffles", self.shuffles),
            ("other multiplications", self.multiplies),
            ("loads", self.loads),
            ("stores", self.stores),
            ("everything else", self.other),
        ];
        let parts = parts.map(|(what, n)| format!("{} {what}", number(n)));
        write!(f, "{}; {} bytes read", parts.join(", "), number(self.bytes_read))
    }
}

impl Disassembly {
    /// What all counts are per: `256 weights`, `256 weights and token`.
    pub fn per(&self) -> String {
        let token = if self.tokens > 1 { " and token" } else { "" };
        format!("256 {}{token}", self.unit)
    }

    /// The lines above the code.
    fn head(&self) -> String {
        format!(
            "{}: {} instructions per {}\n{}\n{COMPILER}\n\nThe hot loop, {:.0} % of them; executed per {}, offset in \
             the function, instruction:\n",
            self.kernel,
            number(self.counts.total),
            self.per(),
            self.counts,
            100.0 * self.share,
            self.per(),
        )
    }

    /// For notebooks: one HTML element that needs nothing from elsewhere. Kinds have colours, which the text names.
    pub fn to_html(&self) -> String {
        let mut out = format!("<pre style=\"line-height:1.25\">{}\n", escape(&self.head()));
        for instruction in &self.instructions {
            let line = escape(&line(instruction));
            match color(instruction.kind) {
                Some(color) => out += &format!("<span style=\"color:{color}\">{line}</span>\n"),
                None => out += &format!("{line}\n"),
            }
        }
        let legend =
            [Kind::Dot, Kind::Shuffle, Kind::Multiply, Kind::Load, Kind::Store].map(|kind| {
                format!(
                    "<span style=\"color:{}\">{}</span>",
                    color(kind).unwrap_or(""),
                    kind.name()
                )
            });
        out + "\n" + &legend.join(" · ") + "</pre>"
    }
}

impl Display for Disassembly {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}", self.head())?;
        for instruction in &self.instructions {
            writeln!(f, "{}", line(instruction))?;
        }
        Ok(())
    }
}

fn line(instruction: &Instruction) -> String {
    let Instruction { at, text, executed, .. } = instruction;
    let executed = if *executed == 0.0 { String::new() } else { format!("{executed:.3}") };
    format!("{executed:>9}  {:>6}  {text}", format!("{at:#x}"))
}

/// Legible on white and on black.
const fn color(kind: Kind) -> Option<&'static str> {
    match kind {
        Kind::Dot => Some("#0a8f5a"),
        Kind::Shuffle => Some("#c2410c"),
        Kind::Multiply => Some("#9333ea"),
        Kind::Load => Some("#2f7fd6"),
        Kind::Store => Some("#b8860b"),
        Kind::Other => None,
    }
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}
