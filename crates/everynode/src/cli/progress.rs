//! Progress of a command: a spinner, or a board, that is drawn in place on a terminal; plain lines
//! elsewhere.

use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressFinish, ProgressStyle};

use super::board::Room;

/// What a terminal has that does not say how large it is.
const LINES: usize = 24;
const COLUMNS: usize = 80;

/// Shows on stderr what is being done and what is done.
pub struct Progress {
    screen: Option<Screen>,
}

impl Progress {
    pub fn start() -> Progress {
        Progress { screen: Screen::stderr() }
    }

    /// What is going on now; replaced by the next. May have several lines.
    pub fn doing(&self, what: &str) {
        if let Some(screen) = &self.screen {
            screen.show(what);
        }
    }

    /// A line that stays.
    pub fn done(&self, what: &str) {
        match &self.screen {
            Some(screen) => screen.bar.println(format!("✓ {what}")),
            None => eprintln!("{what}"),
        }
    }

    /// Where things are drawn; None without a terminal.
    pub fn screen(&self) -> Option<&Screen> {
        self.screen.as_ref()
    }

    /// The end, with what to do next.
    pub fn finish(self, next: &str) {
        if let Some(screen) = self.screen {
            screen.bar.finish_and_clear();
        }
        eprintln!("{next}");
    }
}

/// A few lines of a terminal that are drawn again and again in their place.
pub struct Screen {
    bar: ProgressBar,
    size: fn() -> Option<rustix::termios::Winsize>,
}

impl Screen {
    /// On stderr, with a spinner before the first line; None where it is no terminal.
    fn stderr() -> Option<Screen> {
        let size = || rustix::termios::tcgetwinsize(std::io::stderr()).ok();
        let screen = Screen::on(ProgressDrawTarget::stderr(), "{spinner} {msg}", size)?;
        screen.bar.enable_steady_tick(Duration::from_millis(80));
        Some(screen)
    }

    /// On stdout; None where it is no terminal.
    pub fn stdout() -> Option<Screen> {
        let size = || rustix::termios::tcgetwinsize(std::io::stdout()).ok();
        Screen::on(ProgressDrawTarget::stdout(), "{msg}", size)
    }

    fn on(target: ProgressDrawTarget, template: &str, size: fn() -> Option<rustix::termios::Winsize>) -> Option<Screen> {
        // After an error the last board is left standing: it shows why.
        let bar = ProgressBar::with_draw_target(None, target).with_finish(ProgressFinish::Abandon);
        bar.set_style(ProgressStyle::with_template(template).expect("the template is valid"));
        // No terminal, or one that cannot move its cursor (TERM=dumb).
        if bar.is_hidden() { None } else { Some(Screen { bar, size }) }
    }

    /// Replaces what was shown.
    pub fn show(&self, text: &str) {
        self.bar.set_message(text.to_owned());
    }

    /// Puts text above, where it stays.
    pub fn leave(&self, text: &str) {
        self.bar.println(text);
    }

    /// How much can be shown.
    pub fn room(&self) -> Room {
        let size = (self.size)();
        let known = |length: Option<u16>, otherwise| length.filter(|&length| length > 0).map_or(otherwise, usize::from);
        let lines = known(size.map(|size| size.ws_row), LINES);
        let columns = known(size.map(|size| size.ws_col), COLUMNS);
        // The last line is the cursor's, and the spinner is before the first.
        Room { lines: Some(lines.saturating_sub(1)), columns: Some(columns.saturating_sub(2)) }
    }
}
