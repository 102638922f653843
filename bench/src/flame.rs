//! A flame graph of a running process: `perf` (Debian: linux-perf) samples its stacks by the clock,
//! which works in virtual machines too, and this draws them.
//!
//! A frame's width is its share of the samples; below it stands what called it, at the bottom the
//! thread's name. A browser shows a frame's name and share on hovering.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result};

use crate::report::float;

const WIDTH: f64 = 1_400.0;
const ROW: f64 = 17.0;
/// Narrower frames are left out.
const NARROWEST: f64 = 0.4;
/// The width of a letter, to know how many fit.
const LETTER: f64 = 7.0;

/// Samples under way.
#[derive(Debug)]
pub(crate) struct Profile {
    perf: Child,
    data: PathBuf,
}

impl Profile {
    /// Samples a process for so long.
    pub(crate) fn start(pid: u32, folder: &Path, span: Duration) -> Result<Self> {
        let data = folder.join("perf.data");
        let perf = Command::new("perf")
            .args(["record", "--quiet", "--event", "cpu-clock", "--freq", "499"])
            .args(["--call-graph", "dwarf,8192", "--pid", &pid.to_string(), "--output"])
            .arg(&data)
            .args(["--", "sleep", &span.as_secs().to_string()])
            .stdin(Stdio::null())
            .spawn()
            .context("could not start perf; install it (Debian: linux-perf)")?;
        Ok(Self { perf, data })
    }

    /// Waits for the samples and draws them.
    pub(crate) fn draw(mut self, svg: &Path) -> Result<()> {
        let status = self.perf.wait()?;
        anyhow::ensure!(status.success(), "perf record ended with {status}");
        let script = Command::new("perf")
            .args(["script", "--no-inline", "--fields", "comm,ip,sym", "--input"])
            .arg(&self.data)
            .stderr(Stdio::null())
            .output()?;
        anyhow::ensure!(script.status.success(), "perf script ended with {}", script.status);
        let root = fold(&String::from_utf8_lossy(&script.stdout));
        std::fs::write(svg, root.svg())?;
        Ok(())
    }
}

/// A function under one path of callers.
#[derive(Debug, Default, PartialEq)]
struct Frame {
    samples: u64,
    callees: BTreeMap<String, Frame>,
}

/// Adds up stacks as `perf script` prints them: a line with the thread's name, a line for each
/// function from the innermost outwards, an empty line.
fn fold(script: &str) -> Frame {
    let mut root = Frame::default();
    for sample in script.split("\n\n") {
        let mut lines = sample.lines().filter(|line| !line.trim().is_empty());
        let Some(thread) = lines.next() else { continue };
        let functions = lines.filter_map(|line| line.trim().split_once(' '));
        let inner_first: Vec<_> = functions.map(|(_address, name)| name).collect();
        root.samples += 1;
        let mut frame = root.callees.entry(thread.trim().to_owned()).or_default();
        frame.samples += 1;
        for name in inner_first.into_iter().rev() {
            frame = frame.callees.entry(name.to_owned()).or_default();
            frame.samples += 1;
        }
    }
    root
}

impl Frame {
    fn depth(&self) -> u64 {
        self.callees.values().map(Self::depth).max().map_or(0, |below| below + 1)
    }

    fn svg(&self) -> String {
        let height = (float(self.depth()) + 1.0) * ROW;
        let mut svg = format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{WIDTH}\" height=\"{height}\" font-family=\"monospace\" font-size=\"11\">\n"
        );
        self.draw_callees(&mut svg, 0.0, height - ROW, WIDTH / float(self.samples.max(1)));
        svg.push_str("</svg>\n");
        svg
    }

    fn draw_callees(&self, svg: &mut String, mut left: f64, top: f64, scale: f64) {
        for (name, frame) in &self.callees {
            let width = float(frame.samples) * scale;
            if width >= NARROWEST {
                let percent = width * 100.0 / WIDTH;
                let shade =
                    name.bytes().fold(0_u8, |sum, byte| sum.wrapping_mul(31).wrapping_add(byte));
                let room = crate::report::round((width / LETTER).floor());
                let shown: String = name.chars().take(if room > 2 { room } else { 0 }).collect();
                let (name, shown) = (escaped(name), escaped(&shown));
                // Writing to a String cannot fail.
                let _infallible = writeln!(
                    svg,
                    "<g><title>{name} {percent:.1} %</title><rect x=\"{left:.1}\" y=\"{top:.1}\" width=\"{width:.1}\" height=\"{ROW}\" fill=\"hsl({}, 75%, 65%)\" stroke=\"white\" stroke-width=\"0.5\"/><text x=\"{:.1}\" y=\"{:.1}\">{shown}</text></g>",
                    shade % 55,
                    left + 2.0,
                    top + 12.0,
                );
                frame.draw_callees(svg, left, top - ROW, scale);
            }
            left += width;
        }
    }
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stacks_are_added_up_from_the_outermost_function() {
        let script = "worker \n\t  1a parse\n\t  2b run<T, &U>\n\nworker \n\t  3c hash\n\t  2b run<T, &U>\n\n";
        let root = fold(script);
        let run = &root.callees["worker"].callees["run<T, &U>"];
        assert_eq!((root.samples, run.samples, run.callees["parse"].samples), (2, 2, 1));
        assert_eq!(root.depth(), 3);
        let svg = root.svg();
        assert!(svg.contains("run&lt;T, &amp;U&gt; 100.0 %"), "{svg}");
        assert!(svg.contains("hash 50.0 %"), "{svg}");
    }
}
