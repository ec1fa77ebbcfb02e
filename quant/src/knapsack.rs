//! The least loss within a budget of bytes: the multiple-choice knapsack problem, solved exactly.
//!
//! Classes (tensors) are taken one after another; kept are the partial choices that no other beats in both bytes and
//! loss. A Lagrangian bound drops those that cannot become better than what is known already: with a price on a byte,
//! every class to come costs at least its smallest `loss + price * bytes`, of which the whole budget's worth is taken
//! off again. At the right price few partial choices are left, those near the best exchange of bytes for loss
//! (Kellerer, Pferschy, Pisinger: Knapsack Problems, 2004, chapter 11).

/// One way to store a tensor.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Choice {
    /// What it takes of the limit.
    pub bytes: u64,
    /// What it costs, on a scale that all classes share.
    pub loss: f64,
}

/// For each class the index of its chosen entry: the least sum of losses of all choices whose bytes sum up to at most
/// `budget`, and of those one of the fewest bytes. `None` if not even the smallest entries fit.
///
/// The same for the same input. Losses must be finite and no class may be empty.
pub fn choose(classes: &[Vec<Choice>], budget: u64) -> Option<Vec<usize>> {
    let price = price(classes, budget)?;
    let ahead = Ahead::of_all(classes, price);
    let mut known = completed(&Partial::NOTHING, &ahead[0], budget);
    let mut layers = vec![vec![Partial::NOTHING]];
    for (class, ahead) in classes.iter().zip(&ahead[1..]) {
        let before = layers.last().expect("the first is there");
        let mut next = extend(before, class);
        next.retain(|p| p.bytes + ahead.fewest_bytes <= budget);
        known = next.iter().map(|p| completed(p, ahead, budget)).fold(known, f64::min);
        // Rounding of the sums must not drop the best.
        let limit = known + 1e-9 * (known.abs() + price * budget as f64);
        next.retain(|p| p.loss + price * p.bytes as f64 + ahead.least_cost - price * budget as f64 <= limit);
        keep_unbeaten(&mut next);
        layers.push(next);
    }
    Some(trace_back(&layers))
}

/// The smallest number of bytes that all classes can be stored in.
pub fn fewest_bytes(classes: &[Vec<Choice>]) -> u64 {
    classes.iter().map(|class| class.iter().map(|c| c.bytes).min().unwrap_or(0)).sum()
}

/// Entries chosen for the first classes.
#[derive(Clone, Copy, Debug)]
struct Partial {
    bytes: u64,
    loss: f64,
    /// Its place among the partial choices of one class less, and the entry added to it.
    parent: u32,
    entry: u32,
}

impl Partial {
    const NOTHING: Partial = Partial { bytes: 0, loss: 0.0, parent: 0, entry: 0 };
}

/// Sums over the classes from one on.
#[derive(Clone, Copy, Debug, Default)]
struct Ahead {
    fewest_bytes: u64,
    /// Of `loss + price * bytes`.
    least_cost: f64,
    /// Of the entries with that least cost.
    cheapest: (u64, f64),
}

impl Ahead {
    /// One more than there are classes: behind the last there is nothing.
    fn of_all(classes: &[Vec<Choice>], price: f64) -> Vec<Ahead> {
        let mut all = vec![Ahead::default(); classes.len() + 1];
        for (index, class) in classes.iter().enumerate().rev() {
            let (cheapest, after) = (cheapest(class, price), all[index + 1]);
            all[index] = Ahead {
                fewest_bytes: after.fewest_bytes + fewest_bytes(std::slice::from_ref(class)),
                least_cost: after.least_cost + cheapest.loss + price * cheapest.bytes as f64,
                cheapest: (after.cheapest.0 + cheapest.bytes, after.cheapest.1 + cheapest.loss),
            };
        }
        all
    }
}

/// The entry of least `loss + price * bytes`; of several the smallest.
fn cheapest(class: &[Choice], price: f64) -> Choice {
    let cost = |c: &Choice| c.loss + price * c.bytes as f64;
    let least = class.iter().min_by(|a, b| cost(a).total_cmp(&cost(b)).then(a.bytes.cmp(&b.bytes)));
    *least.expect("no class is empty")
}

/// The lowest price (to rounding) at which the cheapest entries fit, or `None` if none makes them fit.
fn price(classes: &[Vec<Choice>], budget: u64) -> Option<f64> {
    let fits = |price: f64| classes.iter().map(|c| cheapest(c, price).bytes).sum::<u64>() <= budget;
    if fewest_bytes(classes) > budget {
        return None;
    }
    if fits(0.0) {
        return Some(0.0);
    }
    let mut high = f64::MIN_POSITIVE;
    while !fits(high) {
        high *= 2.0;
    }
    let mut low = high / 2.0;
    for _ in 0..f64::MANTISSA_DIGITS {
        let middle = low + (high - low) / 2.0;
        if fits(middle) {
            high = middle;
        } else {
            low = middle;
        }
    }
    Some(high)
}

/// The loss once the cheapest entries of all classes to come are added, infinite if they do not fit.
fn completed(partial: &Partial, ahead: &Ahead, budget: u64) -> f64 {
    let fits = partial.bytes + ahead.cheapest.0 <= budget;
    if fits { partial.loss + ahead.cheapest.1 } else { f64::INFINITY }
}

fn extend(before: &[Partial], class: &[Choice]) -> Vec<Partial> {
    let mut all = Vec::with_capacity(before.len() * class.len());
    for (entry, choice) in class.iter().enumerate() {
        all.extend(before.iter().enumerate().map(|(parent, p)| Partial {
            bytes: p.bytes + choice.bytes,
            loss: p.loss + choice.loss,
            parent: parent as u32,
            entry: entry as u32,
        }));
    }
    all
}

/// Leaves those that are better than every smaller one, in order of bytes.
fn keep_unbeaten(partials: &mut Vec<Partial>) {
    partials.sort_by(|a, b| a.bytes.cmp(&b.bytes).then(a.loss.total_cmp(&b.loss)));
    let mut least = f64::INFINITY;
    partials.retain(|p| {
        let better = p.loss < least;
        least = least.min(p.loss);
        better
    });
}

/// The entries that led to the last of the last layer, which has the least loss.
fn trace_back(layers: &[Vec<Partial>]) -> Vec<usize> {
    let mut at = layers.last().map_or(0, |last| last.len() - 1);
    let mut chosen: Vec<usize> = layers[1..]
        .iter()
        .rev()
        .map(|layer| {
            let partial = layer[at];
            at = partial.parent as usize;
            partial.entry as usize
        })
        .collect();
    chosen.reverse();
    chosen
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn total(classes: &[Vec<Choice>], chosen: &[usize]) -> (u64, f64) {
        let entries = classes.iter().zip(chosen).map(|(class, &entry)| class[entry]);
        entries.fold((0, 0.0), |(bytes, loss), c| (bytes + c.bytes, loss + c.loss))
    }

    /// The least loss that fits, from all combinations.
    fn by_trying_all(classes: &[Vec<Choice>], budget: u64) -> Option<f64> {
        let all = classes.iter().fold(vec![(0, 0.0)], |sums: Vec<(u64, f64)>, class| {
            sums.iter().flat_map(|s| class.iter().map(|c| (s.0 + c.bytes, s.1 + c.loss))).collect()
        });
        all.into_iter().filter(|s| s.0 <= budget).map(|s| s.1).min_by(f64::total_cmp)
    }

    fn classes() -> impl Strategy<Value = Vec<Vec<Choice>>> {
        // Few distinct values: ties and equal exchanges are what could go wrong.
        let choice =
            (0u64..12, 0u32..9).prop_map(|(bytes, loss)| Choice { bytes, loss: f64::from(loss) / 4.0 });
        let smooth = (0u64..1000, 0f64..1.0).prop_map(|(bytes, loss)| Choice { bytes, loss });
        prop_oneof![
            prop::collection::vec(prop::collection::vec(choice, 1..5), 0..6),
            prop::collection::vec(prop::collection::vec(smooth, 1..5), 0..6),
        ]
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2000))]
        #[test]
        fn no_combination_is_better(classes in classes(), share in 0f64..1.1) {
            let most: u64 = classes.iter().map(|c| c.iter().map(|c| c.bytes).max().unwrap_or(0)).sum();
            let budget = (most as f64 * share) as u64;
            let chosen = choose(&classes, budget);
            let best = by_trying_all(&classes, budget);
            prop_assert_eq!(chosen.is_some(), best.is_some());
            if let (Some(chosen), Some(best)) = (chosen, best) {
                let (bytes, loss) = total(&classes, &chosen);
                prop_assert!(bytes <= budget);
                prop_assert!((loss - best).abs() < 1e-9, "{} {}", loss, best);
            }
        }
    }

    /// The matrices of a 32-layer model with types of the usual sizes and losses that fall as 4^-bits.
    fn large() -> Vec<Vec<Choice>> {
        let rows = [3072u64, 576, 4096, 2048, 8192, 8192];
        let block_bytes = [84u64, 110, 136, 144, 176, 210, 272];
        (0..192usize)
            .map(|i| {
                let blocks = rows[i % 6] * 8;
                let weight = 1.0 + ((i * 7919) % 613) as f64 / 100.0;
                let entry = |&bytes: &u64| {
                    let bits = bytes as f64 / 32.0;
                    let uneven = 1.0 + ((i as u64 * 31 + bytes) % 17) as f64 / 40.0;
                    Choice {
                        bytes: blocks * bytes,
                        loss: weight * uneven * 0.25f64.powf(bits) * blocks as f64,
                    }
                };
                block_bytes.iter().map(entry).collect()
            })
            .collect()
    }

    #[test]
    fn a_large_model_stays_within_every_budget_and_leaves_little_of_it() {
        let classes = large();
        let fewest = fewest_bytes(&classes);
        let mut losses = Vec::new();
        for step in 1..=6 {
            let budget = fewest + step * fewest / 4;
            let chosen = choose(&classes, budget).expect("fits");
            let (bytes, loss) = total(&classes, &chosen);
            assert!(bytes <= budget && budget - bytes < 1 << 20, "{bytes} of {budget}");
            losses.push(loss);
        }
        assert!(losses.is_sorted_by(|a, b| a > b), "more bytes, less loss: {losses:?}");
        assert_eq!(choose(&classes, fewest - 1), None);
        let chosen = choose(&classes, fewest).expect("fits exactly");
        assert_eq!(total(&classes, &chosen).0, fewest);
    }
}
