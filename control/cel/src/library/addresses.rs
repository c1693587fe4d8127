//! Addresses, networks and URLs.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::{Entry, Outcome, mismatch, text};
use crate::error::EvalError;
use crate::extension::Extension;
use crate::url::Url;
use crate::value::Val;

pub(super) const TABLE: &[Entry] = &[
    ("ip", &["(string): IP", "CIDR.(): IP"], ip),
    ("isIP", &["(string): bool"], |args| Ok(Val::Bool(parse_ip(text(&args[0])?).is_ok()))),
    ("ip.isCanonical", &["(string): bool"], |args| {
        let written = text(&args[0])?;
        Ok(Val::Bool(parse_ip(written)?.to_string() == written))
    }),
    ("family", &["IP.(): int"], |args| Ok(Val::Int(if of_ip(args)?.is_ipv4() { 4 } else { 6 }))),
    ("isUnspecified", &["IP.(): bool"], |args| Ok(Val::Bool(of_ip(args)?.is_unspecified()))),
    ("isLoopback", &["IP.(): bool"], |args| Ok(Val::Bool(of_ip(args)?.is_loopback()))),
    ("isLinkLocalMulticast", &["IP.(): bool"], |args| Ok(Val::Bool(link_local_multicast(of_ip(args)?)))),
    ("isLinkLocalUnicast", &["IP.(): bool"], |args| Ok(Val::Bool(link_local_unicast(of_ip(args)?)))),
    ("isGlobalUnicast", &["IP.(): bool"], |args| Ok(Val::Bool(global_unicast(of_ip(args)?)))),
    ("cidr", &["(string): CIDR"], |args| {
        let (ip, bits) = parse_cidr(text(&args[0])?)?;
        Ok(Val::extension(Extension::Cidr(ip, bits)))
    }),
    ("isCIDR", &["(string): bool"], |args| Ok(Val::Bool(parse_cidr(text(&args[0])?).is_ok()))),
    ("containsIP", &["CIDR.(string): bool", "CIDR.(IP): bool"], contains_ip),
    ("containsCIDR", &["CIDR.(string): bool", "CIDR.(CIDR): bool"], contains_cidr),
    ("prefixLength", &["CIDR.(): int"], |args| Ok(Val::Int(of_cidr(&args[0])?.1.into()))),
    ("masked", &["CIDR.(): CIDR"], |args| {
        let (ip, bits) = of_cidr(&args[0])?;
        Ok(Val::extension(Extension::Cidr(mask(ip, bits), bits)))
    }),
    ("url", &["(string): URL"], |args| Ok(Val::extension(Extension::Url(Box::new(Url::parse(text(&args[0])?)?))))),
    ("isURL", &["(string): bool"], |args| Ok(Val::Bool(Url::parse(text(&args[0])?).is_ok()))),
    ("getScheme", &["URL.(): string"], |args| of_url(args, |url| Val::string(url.scheme()))),
    ("getHost", &["URL.(): string"], |args| of_url(args, |url| Val::string(url.host()))),
    ("getHostname", &["URL.(): string"], |args| of_url(args, |url| Val::string(url.hostname()))),
    ("getPort", &["URL.(): string"], |args| of_url(args, |url| Val::string(url.port()))),
    ("getEscapedPath", &["URL.(): string"], |args| of_url(args, |url| Val::string(url.escaped_path()))),
    ("getQuery", &["URL.(): map(string, list(string))"], |args| {
        of_url(args, |url| {
            let members = url.query().into_iter();
            Val::map(members.map(|(name, values)| (name, Val::list(values.into_iter().map(Val::string).collect()))))
        })
    }),
];

fn of_ip(args: &[Val<'_>]) -> Result<IpAddr, EvalError> {
    match &args[0] {
        Val::Extension(held) => match **held {
            Extension::Ip(ip) => Ok(ip),
            _ => Err(EvalError::no_such_overload()),
        },
        _ => Err(EvalError::no_such_overload()),
    }
}

fn of_cidr(val: &Val<'_>) -> Result<(IpAddr, u8), EvalError> {
    match val {
        Val::Extension(held) => match **held {
            Extension::Cidr(ip, bits) => Ok((ip, bits)),
            _ => Err(EvalError::no_such_overload()),
        },
        _ => Err(EvalError::no_such_overload()),
    }
}

fn of_url<'a>(args: &[Val<'a>], of: impl FnOnce(&Url) -> Val<'a>) -> Outcome<'a> {
    match &args[0] {
        Val::Extension(held) => match &**held {
            Extension::Url(url) => Ok(of(url)),
            _ => mismatch(),
        },
        _ => mismatch(),
    }
}

fn parse_ip(written: &str) -> Result<IpAddr, EvalError> {
    let fault = |text: String| Err(EvalError::failed(text));
    if written.contains('%') {
        return fault(format!("IP address {written:?} with zone value is not allowed"));
    }
    match written.parse::<IpAddr>() {
        Ok(IpAddr::V6(ip)) if ip.to_ipv4_mapped().is_some() => {
            fault(format!("IPv4-mapped IPv6 address {written:?} is not allowed"))
        }
        Ok(ip) => Ok(ip),
        Err(_) => fault(format!(
            "IP Address {written:?} parse error during conversion from string: ParseAddr({written:?}): unable to parse IP"
        )),
    }
}

fn parse_cidr(written: &str) -> Result<(IpAddr, u8), EvalError> {
    let fault =
        |text: &str| EvalError::failed(format!("network address parse error during conversion from string: {text}"));
    let (ip, bits) =
        written.split_once('/').ok_or_else(|| fault(&format!("netip.ParsePrefix({written:?}): no '/'")))?;
    let ip = parse_ip(ip).map_err(|error| fault(&error.to_string()))?;
    let plain = !bits.is_empty() && bits.bytes().all(|c| c.is_ascii_digit()) && (bits == "0" || !bits.starts_with('0'));
    let bits = bits.parse::<u8>().ok().filter(|bits| plain && *bits <= width(ip));
    let bits = bits.ok_or_else(|| fault(&format!("netip.ParsePrefix({written:?}): prefix length out of range")))?;
    Ok((ip, bits))
}

fn width(ip: IpAddr) -> u8 {
    if ip.is_ipv4() { 32 } else { 128 }
}

fn mask(ip: IpAddr, bits: u8) -> IpAddr {
    match ip {
        IpAddr::V4(ip) => {
            let keep = u32::MAX.checked_shl(32 - u32::from(bits)).unwrap_or(0);
            IpAddr::V4(Ipv4Addr::from_bits(ip.to_bits() & keep))
        }
        IpAddr::V6(ip) => {
            let keep = u128::MAX.checked_shl(128 - u32::from(bits)).unwrap_or(0);
            IpAddr::V6(Ipv6Addr::from_bits(ip.to_bits() & keep))
        }
    }
}

fn within(network: (IpAddr, u8), ip: IpAddr) -> bool {
    network.0.is_ipv4() == ip.is_ipv4() && mask(network.0, network.1) == mask(ip, network.1)
}

fn ip<'a>(args: &[Val<'a>]) -> Outcome<'a> {
    let ip = match &args[0] {
        Val::String(written) => parse_ip(written.as_str())?,
        network => of_cidr(network)?.0,
    };
    Ok(Val::extension(Extension::Ip(ip)))
}

fn contains_ip<'a>(args: &[Val<'a>]) -> Outcome<'a> {
    let ip = match &args[1] {
        Val::String(written) => parse_ip(written.as_str())?,
        _ => of_ip(&args[1..])?,
    };
    Ok(Val::Bool(within(of_cidr(&args[0])?, ip)))
}

fn contains_cidr<'a>(args: &[Val<'a>]) -> Outcome<'a> {
    let network = of_cidr(&args[0])?;
    let (ip, bits) = match &args[1] {
        Val::String(written) => parse_cidr(written.as_str())?,
        other => of_cidr(other)?,
    };
    Ok(Val::Bool(bits >= network.1 && within(network, ip)))
}

fn link_local_multicast(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(ip) => ip.octets()[..3] == [224, 0, 0],
        IpAddr::V6(ip) => ip.segments()[0] & 0xff0f == 0xff02,
    }
}

fn link_local_unicast(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(ip) => ip.is_link_local(),
        IpAddr::V6(ip) => ip.segments()[0] & 0xffc0 == 0xfe80,
    }
}

fn global_unicast(ip: IpAddr) -> bool {
    let broadcast = matches!(ip, IpAddr::V4(ip) if ip.is_broadcast());
    !(broadcast || ip.is_unspecified() || ip.is_loopback() || ip.is_multicast() || link_local_unicast(ip))
}
