//! Scaling in the middle of a rollout: every set gets its share.

use super::rolling::Limits;
use super::sets::Sets;

/// Brings the sets to the wanted total without moving the rollout.
pub fn scale(sets: &mut Sets, limits: &Limits) {
    if let Some(only) = sets.only_active_or_latest() {
        only.replicas = limits.replicas;
        only.annotate = true;
        return;
    }
    let saturated = sets.new_set().is_some_and(|new| {
        new.replicas == limits.replicas
            && new.desired == Some(limits.replicas)
            && new.available == limits.replicas
    });
    if saturated {
        sets.old_oldest_first().for_each(|set| set.replicas = 0);
        return;
    }
    if limits.recreate {
        return;
    }
    let allowed = if limits.replicas > 0 { limits.ceiling() } else { 0 };
    let to_add = allowed - sets.total();
    let mut active = sets.active_by_size(to_add >= 0);
    if to_add != 0 {
        let sizes: Vec<(i64, i64)> =
            active.iter().map(|set| (set.replicas, set.max_replicas.unwrap_or(limits.replicas))).collect();
        for (set, share) in active.iter_mut().zip(shares(&sizes, limits, to_add)) {
            set.replicas = (set.replicas + share).max(0);
        }
    }
    // Also where the size stays, the annotations of the old total must go.
    active.into_iter().for_each(|set| set.annotate = true);
}

/// What each set gets (or loses) of `to_add`, in proportion to its size; the first takes what rounding leaves.
/// `sizes` are present size and the maximal total that the set was sized for.
fn shares(sizes: &[(i64, i64)], limits: &Limits, to_add: i64) -> Vec<i64> {
    let mut added = 0;
    let mut shares: Vec<i64> = sizes
        .iter()
        .map(|&(size, sized_for)| {
            if size == 0 || added == to_add {
                return 0;
            }
            let fraction = fraction(size, sized_for, limits);
            let left = to_add - added;
            // Never beyond what is left, in either direction.
            let share = if to_add > 0 { fraction.min(left) } else { fraction.max(left) };
            added += share;
            share
        })
        .collect();
    if let Some(first) = shares.first_mut() {
        *first += to_add - added;
    }
    shares
}

fn fraction(size: i64, sized_for: i64, limits: &Limits) -> i64 {
    if limits.replicas == 0 {
        return -size;
    }
    let sized_for = if sized_for == 0 { limits.replicas } else { sized_for };
    let new_size = (size as f64 * limits.ceiling() as f64 / sized_for as f64).round() as i64;
    new_size - size
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limits(replicas: i64, max_surge: i64) -> Limits {
        Limits { replicas, max_surge, max_unavailable: 2, recreate: false }
    }

    #[test]
    fn growth_is_shared_in_proportion_and_the_largest_takes_the_rest() {
        // As in Kubernetes' documentation: 10 with surge 3, sets of 8 and 5, scaled to 15.
        assert_eq!(shares(&[(8, 13), (5, 13)], &limits(15, 3), 5), [3, 2]);
        assert_eq!(shares(&[(8, 13), (5, 13)], &limits(0, 3), -13), [-8, -5]);
    }

    #[test]
    fn shares_add_up() {
        for replicas in 0..40 {
            let limits = limits(replicas, 3);
            let to_add = (if replicas > 0 { limits.ceiling() } else { 0 }) - 16;
            assert_eq!(shares(&[(8, 13), (5, 13), (3, 13)], &limits, to_add).iter().sum::<i64>(), to_add);
        }
    }
}
