//! Who a container runs as: the pod's wishes, the image's `User`, and the image's /etc/passwd and /etc/group, made into numbers.

use crate::port::{SecurityContext, User};

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    #[error("unable to find user {0}: no matching entries in passwd file")]
    NoUser(String),
    #[error("unable to find group {0}: no matching entries in group file")]
    NoGroup(String),
    #[error("uids and gids must be in range 0-4294967295, not {0}")]
    OutOfRange(i64),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    pub user: User,
    pub home: String,
}

/// The texts of the image's files; empty ones are like missing ones.
#[derive(Debug, Clone, Copy)]
pub struct Databases<'a> {
    pub passwd: &'a str,
    pub group: &'a str,
}

struct Account<'a> {
    name: &'a str,
    uid: i64,
    gid: i64,
    home: &'a str,
}

/// `image_user` is what the image declares: `user`, `uid`, `user:group`.
pub fn resolve(files: Databases<'_>, image_user: &str, security: &SecurityContext) -> Result<Identity, Error> {
    let (wanted, wanted_group) = wanted(image_user, security);
    let (uid, account) = find_user(files, &wanted)?;
    let gid = match (security.run_as_group, wanted_group) {
        (Some(gid), _) => gid,
        (None, Some(group)) => find_group(files, &group)?,
        (None, None) => account.as_ref().map_or(0, |a| a.gid),
    };
    let mut groups = security.supplemental_groups.clone();
    if let Some(account) = account.as_ref().filter(|_| !security.strict_supplemental_groups) {
        groups.extend(groups_of(files, account.name));
    }
    // Other runtimes put the primary group among the others, and programs check for it there.
    groups.push(gid);
    groups.sort_unstable();
    groups.dedup();
    for number in groups.iter().chain([&uid, &gid]) {
        u32::try_from(*number).map_err(|_| Error::OutOfRange(*number))?;
    }
    let home = account.map(|a| a.home).filter(|h| !h.is_empty()).unwrap_or("/").to_owned();
    Ok(Identity { user: User { uid, gid, supplemental_groups: groups }, home })
}

fn wanted(image_user: &str, security: &SecurityContext) -> (String, Option<String>) {
    if let Some(uid) = security.run_as_user {
        return (uid.to_string(), None);
    }
    if let Some(name) = &security.run_as_username {
        return (name.clone(), None);
    }
    match image_user.split_once(':') {
        Some((user, group)) => (or_root(user), Some(group.to_owned()).filter(|g| !g.is_empty())),
        None => (or_root(image_user), None),
    }
}

fn or_root(user: &str) -> String {
    if user.is_empty() { "0".to_owned() } else { user.to_owned() }
}

fn find_user<'a>(files: Databases<'a>, wanted: &str) -> Result<(i64, Option<Account<'a>>), Error> {
    if let Some(account) = accounts(files).find(|a| a.name == wanted) {
        return Ok((account.uid, Some(account)));
    }
    let uid = wanted.parse().map_err(|_| Error::NoUser(wanted.to_owned()))?;
    Ok((uid, accounts(files).find(|a| a.uid == uid)))
}

fn find_group(files: Databases<'_>, wanted: &str) -> Result<i64, Error> {
    let named = entries(files.group).find(|f| f[0] == wanted).and_then(|f| f.get(2)?.parse().ok());
    named.or_else(|| wanted.parse().ok()).ok_or_else(|| Error::NoGroup(wanted.to_owned()))
}

fn groups_of<'a>(files: Databases<'a>, name: &'a str) -> impl Iterator<Item = i64> + 'a {
    entries(files.group)
        .filter(move |f| f.get(3).is_some_and(|members| members.split(',').any(|m| m == name)))
        .filter_map(|f| f[2].parse().ok())
}

fn accounts<'a>(files: Databases<'a>) -> impl Iterator<Item = Account<'a>> {
    entries(files.passwd).filter_map(|f| {
        Some(Account { name: f[0], uid: f.get(2)?.parse().ok()?, gid: f.get(3)?.parse().ok()?, home: f.get(5).copied().unwrap_or("") })
    })
}

fn entries(text: &str) -> impl Iterator<Item = Vec<&str>> {
    text.lines().map(str::trim).filter(|l| !l.is_empty() && !l.starts_with('#')).map(|l| l.split(':').collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILES: Databases<'_> = Databases {
        passwd: "root:x:0:0:root:/root:/bin/sh\nweb:x:33:34:web:/var/www:/bin/sh\n",
        group: "root:x:0:\nweb:x:34:\nlogs:x:77:other,web\n",
    };

    fn show(image_user: &str, security: SecurityContext) -> String {
        match resolve(FILES, image_user, &security) {
            Ok(i) => format!("{}:{} {:?} {}", i.user.uid, i.user.gid, i.user.supplemental_groups, i.home),
            Err(e) => e.to_string(),
        }
    }

    #[test]
    fn image_users() {
        assert_eq!(show("", SecurityContext::default()), "0:0 [0] /root");
        assert_eq!(show("web", SecurityContext::default()), "33:34 [34, 77] /var/www");
        assert_eq!(show("33", SecurityContext::default()), "33:34 [34, 77] /var/www");
        assert_eq!(show("web:logs", SecurityContext::default()), "33:77 [77] /var/www");
        assert_eq!(show("1000:1001", SecurityContext::default()), "1000:1001 [1001] /");
        assert_eq!(show("nobody", SecurityContext::default()), "unable to find user nobody: no matching entries in passwd file");
        assert_eq!(show("web:none", SecurityContext::default()), "unable to find group none: no matching entries in group file");
    }

    #[test]
    fn the_pod_decides() {
        let pod = SecurityContext { run_as_user: Some(5), run_as_group: Some(6), supplemental_groups: vec![9, 7], ..Default::default() };
        assert_eq!(show("web", pod), "5:6 [6, 7, 9] /");
        let strict = SecurityContext { run_as_user: Some(33), strict_supplemental_groups: true, ..Default::default() };
        assert_eq!(show("", strict), "33:34 [34] /var/www");
        let negative = SecurityContext { run_as_user: Some(-1), ..Default::default() };
        assert_eq!(show("", negative), "uids and gids must be in range 0-4294967295, not -1");
    }
}
