//! The five fields of a cron schedule: whether they can be read. Never computes a time.

/// `TZ=` or `CRON_TZ=` in front, taken off, and whether there was one.
pub(super) fn without_zone(schedule: &str) -> (&str, bool) {
    let zoned = schedule.strip_prefix("TZ=").or_else(|| schedule.strip_prefix("CRON_TZ="));
    match zoned.and_then(|rest| rest.split_once(' ')) {
        Some((_, rest)) => (rest.trim_start(), true),
        None => (schedule, schedule.contains("TZ")),
    }
}

struct Field {
    low: u32,
    high: u32,
    names: &'static [&'static str],
    /// The number of the first name.
    first: u32,
}

const FIELDS: [Field; 5] = [
    Field { low: 0, high: 59, names: &[], first: 0 },
    Field { low: 0, high: 23, names: &[], first: 0 },
    Field { low: 1, high: 31, names: &[], first: 0 },
    Field {
        low: 1,
        high: 12,
        names: &["jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"],
        first: 1,
    },
    Field { low: 0, high: 6, names: &["sun", "mon", "tue", "wed", "thu", "fri", "sat"], first: 0 },
];

const MACROS: [&str; 7] = ["@yearly", "@annually", "@monthly", "@weekly", "@daily", "@midnight", "@hourly"];

/// Why a schedule cannot be read.
pub(super) fn check(schedule: &str) -> Result<(), String> {
    if let Some(every) = schedule.strip_prefix("@every ") {
        let valid = every.bytes().any(|byte| byte.is_ascii_digit())
            && every.bytes().all(|byte| byte.is_ascii_digit() || b"hmsun.".contains(&byte));
        return if valid {
            Ok(())
        } else {
            Err(format!("failed to parse duration {schedule}: time: invalid duration \"{every}\""))
        };
    }
    if schedule.starts_with('@') {
        let known = MACROS.contains(&schedule);
        return if known { Ok(()) } else { Err(format!("unrecognized descriptor: {schedule}")) };
    }
    let fields: Vec<&str> = schedule.split_whitespace().collect();
    if fields.len() != FIELDS.len() {
        return Err(format!("expected exactly 5 fields, found {}: [{}]", fields.len(), fields.join(" ")));
    }
    for (text, field) in fields.iter().zip(&FIELDS) {
        text.split(',').try_for_each(|range| field.range(range))?;
    }
    Ok(())
}

impl Field {
    fn number(&self, text: &str) -> Result<u32, String> {
        let lower = text.to_lowercase();
        if let Some(at) = self.names.iter().position(|name| *name == lower) {
            return Ok(self.first + u32::try_from(at).unwrap_or(0));
        }
        text.parse()
            .map_err(|_| format!("failed to parse int from {text}: strconv.Atoi: parsing \"{text}\": invalid syntax"))
    }

    /// `a`, `a-b`, `*`, each with an optional `/step`.
    fn range(&self, text: &str) -> Result<(), String> {
        let (range, step) = match text.split_once('/') {
            Some((_, step)) if step.contains('/') => return Err(format!("too many slashes: {text}")),
            Some((range, step)) => (range, Some(step)),
            None => (text, None),
        };
        let (low, high) = match range.split_once('-') {
            Some((_, high)) if high.contains('-') => return Err(format!("too many hyphens: {text}")),
            _ if matches!(range, "*" | "?") => (self.low, self.high),
            Some((low, high)) => (self.number(low)?, self.number(high)?),
            None => {
                let number = self.number(range)?;
                (number, if step.is_some() { self.high } else { number })
            }
        };
        if let Some(step) = step
            && self.number(step)? == 0
        {
            return Err(format!("step of range should be a positive number: {text}"));
        }
        if low < self.low {
            return Err(format!("beginning of range ({low}) below minimum ({}): {text}", self.low));
        }
        if high > self.high {
            return Err(format!("end of range ({high}) above maximum ({}): {text}", self.high));
        }
        if low > high {
            return Err(format!("beginning of range ({low}) beyond end of range ({high}): {text}"));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn schedules_are_read() {
        for schedule in ["* * * * *", "*/5 0-6 1,15 jan-dec mon", "0 0 ? * 0", "@daily", "@every 1h30m", "5/15 * * * *"]
        {
            assert_eq!(check(schedule), Ok(()), "{schedule}");
        }
        for (schedule, why) in [
            ("* * * *", "expected exactly 5 fields, found 4: [* * * *]"),
            ("60 * * * *", "end of range (60) above maximum (59): 60"),
            ("5-1 * * * *", "beginning of range (5) beyond end of range (1): 5-1"),
            ("*/0 * * * *", "step of range should be a positive number: */0"),
            ("* * 0 * *", "beginning of range (0) below minimum (1): 0"),
            ("@never", "unrecognized descriptor: @never"),
        ] {
            assert_eq!(check(schedule), Err(why.to_owned()), "{schedule}");
        }
        assert_eq!(without_zone("CRON_TZ=UTC 0 * * * *"), ("0 * * * *", true));
    }
}
