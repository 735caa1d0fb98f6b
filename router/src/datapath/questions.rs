//! Questions for hardware addresses that nobody announced yet. A container that was attached a moment ago is announced a moment from
//! now; answering then saves its first caller the second until it would ask again.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use super::neighbour::Question;

/// Questions kept: a burst of callers of one new container. The oldest gives way, and its asker asks again by itself.
const MAX_OPEN: usize = 256;
/// After this time the asker has asked again (once a second, RFC 1122 section 2.3.2.1, RFC 4861 section 10).
const KEEP: Duration = Duration::from_secs(1);

/// The questions that are open.
#[derive(Default)]
pub struct OpenQuestions {
    waiting: VecDeque<(Instant, Question)>,
}

impl OpenQuestions {
    /// Keeps a question, once.
    pub fn keep(&mut self, question: Question, now: Instant) {
        self.waiting.retain(|(_, kept)| *kept != question);
        if self.waiting.len() >= MAX_OPEN {
            self.waiting.pop_front();
        }
        self.waiting.push_back((now, question));
    }

    /// Takes out those that `answer` could answer, and those that are too old.
    pub fn settle(&mut self, now: Instant, mut answer: impl FnMut(&Question) -> Answered) {
        self.waiting.retain(|(asked, question)| {
            now.saturating_duration_since(*asked) < KEEP && answer(question) == Answered::NotYet
        });
    }

    /// How many are open.
    pub fn len(&self) -> usize {
        self.waiting.len()
    }

    /// Whether none is.
    pub fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }
}

/// What became of a question.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Answered {
    /// It was answered, or needs no answer of ours.
    Done,
    /// Nobody has announced the address.
    NotYet,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::mac::Mac;

    fn question(last: u8) -> Question {
        Question { target: [10, 32, 0, last].into(), asker: Mac([2; 6]), asker_ip: None }
    }

    #[test]
    fn question_is_answered_once_and_forgotten_in_time() {
        let now = Instant::now();
        let mut open = OpenQuestions::default();
        for last in [1, 2, 1] {
            open.keep(question(last), now);
        }
        assert_eq!(open.len(), 2);
        let done = |wanted: u8| {
            move |q: &Question| if *q == question(wanted) { Answered::Done } else { Answered::NotYet }
        };
        open.settle(now, done(1));
        assert_eq!(open.len(), 1);
        open.settle(now + KEEP, done(9));
        assert!(open.is_empty());
    }

    #[test]
    fn flood_of_questions_is_bounded() {
        let mut open = OpenQuestions::default();
        for n in 0..MAX_OPEN as u16 * 2 {
            let [a, b] = n.to_be_bytes();
            open.keep(Question { target: [10, 32, a, b].into(), ..question(0) }, Instant::now());
        }
        assert_eq!(open.len(), MAX_OPEN);
    }
}
