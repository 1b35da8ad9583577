//! Long work without the GIL that Ctrl-C ends.
//!
//! Python looks for signals on its main thread only, and only when it is asked to. So the work goes to a thread of
//! its own, and the calling one waits for it: it looks for signals in steps, and calls what the work wants called.

use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::Duration;

use pyo3::prelude::*;
use tritlab_model::{Cancel, Result};

use crate::callback::Progress;
use crate::errors::OrRaise;

/// How often signals are looked for.
const STEP: Duration = Duration::from_millis(50);

/// Runs `work`, which looks at its [`Cancel`]. What Ctrl-C raises is raised here, after the work has ended.
pub(crate) fn interruptible<T: Send>(
    py: Python<'_>,
    work: impl FnOnce(&Cancel) -> Result<T> + Send,
) -> PyResult<T> {
    with_progress(py, Progress::new(None), "", |cancel, _| work(cancel))
}

/// As [`interruptible`]; the work's second argument calls `progress`, on the calling thread.
pub(crate) fn with_progress<T: Send>(
    py: Python<'_>,
    mut progress: Progress,
    what: &str,
    work: impl FnOnce(&Cancel, &mut dyn FnMut(usize, usize) -> bool) -> Result<T> + Send,
) -> PyResult<T> {
    let cancel = &Cancel::default();
    let result = py.detach(|| {
        let (ask, asked) = mpsc::channel();
        let (answer, answers) = mpsc::channel();
        std::thread::scope(|scope| {
            let worker = scope.spawn(move || {
                work(cancel, &mut |done, total| {
                    ask.send((done, total)).is_ok() && answers.recv().unwrap_or(false)
                })
            });
            loop {
                let goes_on = match asked.recv_timeout(STEP) {
                    Ok((done, total)) => {
                        let goes_on = progress.call(done, total, what);
                        // The work waits for it.
                        let _ = answer.send(goes_on);
                        goes_on
                    }
                    Err(RecvTimeoutError::Timeout) => progress.check_signals(),
                    // `ask` goes when the work has ended.
                    Err(RecvTimeoutError::Disconnected) => break,
                };
                if !goes_on {
                    cancel.cancel();
                }
            }
            worker.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    });
    progress.finish(result.or_raise())
}
