//! Deals a worker's free slots to the queues that it serves.

use crate::domain::{QueueOrder, QueueShare};

/// How one queue stands when slots are dealt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Demand {
    /// The jobs of the queue that the worker holds.
    pub held: usize,
    /// The jobs that the queue could give at once.
    pub ready: usize,
}

/// How far a queue of weight 1 moves with a slot.
const STRIDE: u64 = 1 << 32;

/// Deals slots by start-time fair queueing (Goyal, Vin and Cheng, 1996): each queue has a mark that moves with every slot
/// it gets, by less the greater its weight is; the queue whose mark is lowest gets the next slot. The mark of a queue that
/// had no work is raised to where the others are, so it saves nothing up.
#[derive(Debug)]
pub struct Dealer {
    shares: Vec<QueueShare>,
    order: QueueOrder,
    marks: Vec<u64>,
    /// The mark at which the last slot was dealt.
    now: u64,
}

impl Dealer {
    /// A dealer for these queues, in this order.
    pub fn new(shares: Vec<QueueShare>, order: QueueOrder) -> Self {
        Self { marks: vec![0; shares.len()], shares, order, now: 0 }
    }

    /// The queues, in the order of their demands.
    pub fn shares(&self) -> &[QueueShare] {
        &self.shares
    }

    /// How many of `free` slots each queue gets. No slot stays free while a queue that may have it has work.
    pub fn deal(&mut self, free: usize, demands: &[Demand]) -> Vec<usize> {
        let mut dealt = vec![0; self.shares.len()];
        for _ in 0..free {
            let Some(next) = self.next(demands, &dealt) else { break };
            self.now = self.marks[next].max(self.now);
            self.marks[next] = self.now + self.stride(next);
            dealt[next] += 1;
        }
        dealt
    }

    /// Takes slots back that a queue did not use: they do not count against its next ones.
    pub fn take_back(&mut self, queue: usize, slots: usize) {
        let strides = self.stride(queue).saturating_mul(slots as u64);
        self.marks[queue] = self.marks[queue].saturating_sub(strides);
    }

    /// How far a queue moves with a slot.
    fn stride(&self, queue: usize) -> u64 {
        STRIDE / u64::from(self.shares[queue].weight.max(1))
    }

    fn next(&self, demands: &[Demand], dealt: &[usize]) -> Option<usize> {
        let may_have = |&i: &usize| {
            let most = self.shares[i].most.unwrap_or(usize::MAX);
            dealt[i] < demands[i].ready && demands[i].held + dealt[i] < most
        };
        let mut those = (0..self.shares.len()).filter(may_have);
        match self.order {
            QueueOrder::Strict => those.next(),
            QueueOrder::Weighted => those.min_by_key(|&i| self.marks[i].max(self.now)),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn dealer(shares: &[(u32, Option<usize>)], order: QueueOrder) -> Dealer {
        let share = |(i, (weight, most)): (usize, &(u32, Option<usize>))| {
            let queue = format!("q{i}").parse().unwrap();
            QueueShare { queue, weight: *weight, most: *most }
        };
        Dealer::new(shares.iter().enumerate().map(share).collect(), order)
    }

    fn ready(n: usize) -> Demand {
        Demand { held: 0, ready: n }
    }

    #[test]
    fn slots_go_by_weight_while_all_have_work() {
        let mut dealer = dealer(&[(4, None), (1, None)], QueueOrder::Weighted);
        assert_eq!(dealer.deal(5, &[ready(9), ready(9)]), [4, 1]);
        assert_eq!(dealer.deal(5, &[ready(9), ready(0)]), [5, 0]);
        // What had no work saves nothing up.
        assert_eq!(dealer.deal(5, &[ready(9), ready(9)]), [4, 1]);
    }

    #[test]
    fn one_slot_at_a_time_goes_by_weight_too() {
        let mut dealer = dealer(&[(3, None), (1, None)], QueueOrder::Weighted);
        let mut total = [0, 0];
        for _ in 0..400 {
            let dealt = dealer.deal(1, &[ready(1), ready(1)]);
            (0..2).for_each(|i| total[i] += dealt[i]);
        }
        assert_eq!(total, [300, 100]);
    }

    #[test]
    fn slots_that_were_taken_back_do_not_count() {
        let mut dealer = dealer(&[(4, None), (1, None)], QueueOrder::Weighted);
        assert_eq!(dealer.deal(1, &[ready(0), ready(9)]), [0, 1]);
        dealer.take_back(1, 1);
        assert_eq!(dealer.deal(5, &[ready(9), ready(9)]), [4, 1]);
    }

    #[test]
    fn in_strict_order_the_first_comes_first() {
        let mut dealer = dealer(&[(1, Some(3)), (9, None)], QueueOrder::Strict);
        assert_eq!(dealer.deal(5, &[ready(9), ready(9)]), [3, 2]);
        assert_eq!(dealer.deal(5, &[Demand { held: 3, ready: 9 }, ready(1)]), [0, 1]);
    }

    proptest! {
        #[test]
        fn no_slot_stays_free_that_a_queue_may_have(
            queues in prop::collection::vec((1u32..9, prop::option::of(0usize..6), 0usize..6, 0usize..6), 1..6),
            rounds in prop::collection::vec(0usize..9, 1..20),
            strict: bool,
        ) {
            let order = if strict { QueueOrder::Strict } else { QueueOrder::Weighted };
            let shares: Vec<_> = queues.iter().map(|(weight, most, ..)| (*weight, *most)).collect();
            let demands: Vec<_> = queues.iter().map(|(_, _, held, ready)| Demand { held: *held, ready: *ready }).collect();
            let mut dealer = dealer(&shares, order);
            for free in rounds {
                let dealt = dealer.deal(free, &demands);
                let room = |i: usize| demands[i].ready.min(shares[i].1.unwrap_or(usize::MAX).saturating_sub(demands[i].held));
                prop_assert!((0..dealt.len()).all(|i| dealt[i] <= room(i)));
                let most: usize = (0..dealt.len()).map(room).sum();
                prop_assert_eq!(dealt.iter().sum::<usize>(), free.min(most));
            }
        }
    }
}
