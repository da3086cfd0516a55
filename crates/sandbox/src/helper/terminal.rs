//! A terminal of the sandbox's own, in its own `/dev/pts`.

use std::os::fd::OwnedFd;

use rustix::pty::{OpenptFlags, ioctl_tiocgptpeer, openpt, unlockpt};
use rustix::termios::{Winsize, tcsetwinsize};

use crate::spec::Terminal;

use super::step::{Result, Step};

/// The side of whoever watches, and that of the command.
pub struct Pair {
    pub master: OwnedFd,
    pub slave: OwnedFd,
}

/// By pid 1, once it is in its own root.
pub fn open(size: Terminal) -> Result<Pair> {
    let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
    let master = openpt(flags).step("terminal", "")?;
    unlockpt(&master).step("terminal", "")?;
    let slave = ioctl_tiocgptpeer(&master, flags).step("terminal", "")?;
    let size = Winsize {
        ws_row: size.rows,
        ws_col: size.columns,
        ws_xpixel: 0,
        ws_ypixel: 0,
    };
    tcsetwinsize(&slave, size).step("terminal", "")?;
    Ok(Pair { master, slave })
}

/// By the command, which leads a session: its input, output and signals are the terminal's.
pub fn control(slave: &OwnedFd) -> Result<()> {
    rustix::process::ioctl_tiocsctty(slave).step("terminal", "")?;
    rustix::stdio::dup2_stdin(slave).step("terminal", "")?;
    rustix::stdio::dup2_stdout(slave).step("terminal", "")?;
    rustix::stdio::dup2_stderr(slave).step("terminal", "")
}
