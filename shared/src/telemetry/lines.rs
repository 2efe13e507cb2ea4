//! Where lines go: to standard output, at once as long as they are few. When they are many, they are gathered and written
//! together: a write of three lines costs as much as one of a hundred, and a change has three.

use std::{
    io::{self, Write as _},
    mem,
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    thread,
    time::{Duration, Instant},
};

use tracing_subscriber::fmt::MakeWriter;

/// How long lines are gathered: so much later than it was told a line is out, at most, and so much a killed process loses.
const GATHERED_FOR: Duration = Duration::from_millis(2);

/// Lines are few as long as no more come in [`A_WHILE`]: 3,200 a second. Then whoever tells one writes it.
const FEW: u32 = 32;

/// What [`FEW`] is counted over.
const A_WHILE: Duration = Duration::from_millis(10);

/// Most that is gathered, in bytes; 1 MiB. Whoever has more to tell waits until the reader has taken some.
const MAX_GATHERED_BYTES: usize = 1024 * 1024;

/// Longest that the end of a process waits for who reads its log.
const FLUSH_LIMIT: Duration = Duration::from_secs(1);

/// The lines of a process; cheap to clone.
#[derive(Clone)]
pub(super) struct Lines(Arc<Shared>);

struct Shared {
    state: Mutex<State>,
    /// There is something to write, and the writer waits.
    news: Condvar,
    /// Something was written.
    written: Condvar,
    out: fn(&[u8]),
}

#[derive(Default)]
struct State {
    gathered: Vec<u8>,
    /// Somebody has taken lines that are not out yet.
    writing: bool,
    /// The writer waits for news.
    idle: bool,
    /// Somebody waits for everything to be out: nothing more is gathered first.
    hurried: bool,
    /// How many wait for something to be written. To wake nobody would be a system call all the same, for each line.
    awaiting: usize,
    /// When the present while began, and how many lines it has had.
    a_while: Option<(Instant, u32)>,
}

impl State {
    /// Whether lines are few, with one more.
    fn few(&mut self, now: Instant) -> bool {
        let (began, lines) = self.a_while.filter(|(began, _)| now - *began < A_WHILE).unwrap_or((now, 0));
        self.a_while = Some((began, lines + 1));
        lines < FEW
    }
}

impl Lines {
    /// To standard output, by a thread of its own. A terminal that was closed takes no line; nobody is left to tell.
    pub(super) fn to_standard_output() -> io::Result<Self> {
        Self::to(|lines| {
            let mut out = io::stdout().lock();
            let _closed = out.write_all(lines).and_then(|()| out.flush());
        })
    }

    fn to(out: fn(&[u8])) -> io::Result<Self> {
        let (state, news, written) = (Mutex::default(), Condvar::new(), Condvar::new());
        let lines = Self(Arc::new(Shared { state, news, written, out }));
        let shared = Arc::clone(&lines.0);
        thread::Builder::new().name("log".to_owned()).spawn(move || shared.write_on())?;
        Ok(lines)
    }

    /// Returns when all that was told before is out, or nobody reads it in time.
    pub(super) fn flush(&self) {
        let mut state = self.0.state();
        state.hurried = true;
        self.0.news.notify_one();
        let under_way = |state: &mut State| !state.gathered.is_empty() || state.writing;
        state.awaiting += 1;
        let waited = self.0.written.wait_timeout_while(state, FLUSH_LIMIT, under_way);
        waited.unwrap_or_else(PoisonError::into_inner).0.awaiting -= 1;
    }

    fn tell(&self, line: &[u8]) {
        let mut state = self.0.state();
        // Never before lines that were told earlier.
        if state.few(Instant::now()) && state.gathered.is_empty() && !state.writing {
            state.writing = true;
            drop(state);
            return self.0.write(line);
        }
        while state.gathered.len() + line.len() > MAX_GATHERED_BYTES && !state.gathered.is_empty() {
            state.awaiting += 1;
            state = self.0.written.wait(state).unwrap_or_else(PoisonError::into_inner);
            state.awaiting -= 1;
        }
        state.gathered.extend_from_slice(line);
        if mem::take(&mut state.idle) {
            self.0.news.notify_one();
        }
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Woken once for many lines: while lines come, it looks by itself.
    fn write_on(&self) {
        let mut taken = Vec::new();
        loop {
            let mut state = self.state();
            while state.gathered.is_empty() || state.writing {
                state.idle = true;
                state = self.news.wait(state).unwrap_or_else(PoisonError::into_inner);
            }
            state.idle = false;
            let gathering = self.news.wait_timeout_while(state, GATHERED_FOR, |state| !state.hurried);
            state = gathering.unwrap_or_else(PoisonError::into_inner).0;
            mem::swap(&mut state.gathered, &mut taken);
            (state.writing, state.hurried) = (true, false);
            drop(state);
            self.write(&taken);
            taken.clear();
        }
    }

    /// Whoever is silent meanwhile waits for nothing: the state is free.
    fn write(&self, lines: &[u8]) {
        (self.out)(lines);
        let mut state = self.state();
        state.writing = false;
        if !state.gathered.is_empty() && mem::take(&mut state.idle) {
            self.news.notify_one();
        }
        if state.awaiting > 0 {
            self.written.notify_all();
        }
    }
}

impl io::Write for &Lines {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        self.tell(line);
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl<'a> MakeWriter<'a> for Lines {
    type Writer = &'a Self;

    fn make_writer(&'a self) -> &'a Self {
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    static OUT: Mutex<Vec<u8>> = Mutex::new(Vec::new());

    #[test]
    fn a_line_of_few_is_out_when_it_is_told() {
        static OUT: Mutex<Vec<u8>> = Mutex::new(Vec::new());
        let lines = Lines::to(|lines| OUT.lock().unwrap().extend_from_slice(lines)).unwrap();
        lines.tell(b"a line\n");
        assert_eq!(*OUT.lock().unwrap(), b"a line\n");
    }

    #[test]
    fn lines_are_few_until_more_come_in_a_while() {
        let (mut state, began) = (State::default(), Instant::now());
        assert!((0..FEW).all(|_| state.few(began)));
        assert!(!state.few(began) && !state.few(began + A_WHILE / 2));
        assert!(state.few(began + A_WHILE), "another while");
    }

    #[test]
    fn the_end_does_not_wait_for_ever_for_who_reads_no_line() {
        static READER: Mutex<()> = Mutex::new(());
        let lines = Lines::to(|_| drop(READER.lock().unwrap())).unwrap();
        let stuck = READER.lock().unwrap();
        thread::scope(|scope| {
            let telling = scope.spawn(|| lines.tell(b"a line\n"));
            while !lines.0.state().writing {
                thread::yield_now();
            }
            lines.flush();
            assert!(!telling.is_finished(), "nobody has read it");
            drop(stuck);
        });
    }

    #[test]
    fn who_waits_for_lines_to_be_out_is_woken() {
        static READER: Mutex<()> = Mutex::new(());
        let lines = Lines::to(|_| drop(READER.lock().unwrap())).unwrap();
        let stuck = READER.lock().unwrap();
        let (returned, returns) = std::sync::mpsc::sync_channel(2);
        // Not in a scope, which would wait for whoever is not woken.
        let (first, more) = (lines.clone(), lines.clone());
        thread::spawn(move || first.tell(b"a line that is not taken\n"));
        while !lines.0.state().writing {
            thread::yield_now();
        }
        thread::spawn(move || {
            // The second does not fit beside the first.
            (0..2).for_each(|_| more.tell(&[b'x'; MAX_GATHERED_BYTES / 2 + 1]));
            returned.send("tell").unwrap();
            let began = Instant::now();
            more.flush();
            returned.send(if began.elapsed() < FLUSH_LIMIT { "flush" } else { "flush, which was not woken" }).unwrap();
        });
        while lines.0.state().awaiting == 0 {
            thread::yield_now();
        }
        drop(stuck);
        for waiter in ["tell", "flush"] {
            assert_eq!(returns.recv_timeout(Duration::from_secs(60)), Ok(waiter));
        }
        assert_eq!(lines.0.state().awaiting, 0);
    }

    #[test]
    fn every_line_is_out_once_and_in_order_also_from_many_threads_and_over_the_limit() {
        let lines = Lines::to(|lines| OUT.lock().unwrap().extend_from_slice(lines)).unwrap();
        let (threads, each, filler) = (4, 2_000, "x".repeat(300));
        thread::scope(|scope| {
            for thread in 0..threads {
                let (lines, filler) = (&lines, &filler);
                scope.spawn(move || {
                    for number in 0..each {
                        lines.tell(format!("{thread} {number} {filler}\n").as_bytes());
                    }
                });
            }
        });
        lines.flush();
        let out = String::from_utf8(OUT.lock().unwrap().clone()).unwrap();
        for thread in 0..threads {
            let of_thread = out.lines().filter_map(|line| line.strip_prefix(&format!("{thread} ")));
            let numbers: Vec<usize> = of_thread.map(|line| line.split_once(' ').unwrap().0.parse().unwrap()).collect();
            assert_eq!(numbers, (0..each).collect::<Vec<_>>());
        }
        assert_eq!(out.lines().count(), threads * each);
    }
}
