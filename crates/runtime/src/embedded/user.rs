//! Who a container runs as: the pod's wishes, the image's `User`, and the image's /etc/passwd and
//! /etc/group, made into numbers.
//!
//! A number is a number: no line of the image's files makes another user of it. What the pod
//! decided must hold whatever image it runs.

use containers::{SecurityContext, User};

/// The kernel's limit.
const GROUPS_MAX: usize = 65_536;

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    #[error("unable to find user {0}: no matching entries in passwd file")]
    NoUser(String),
    #[error("unable to find group {0}: no matching entries in group file")]
    NoGroup(String),
    #[error("the user is in {0} groups; the kernel takes {GROUPS_MAX}")]
    TooManyGroups(usize),
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
    let account = find_user(files, wanted)?;
    let uid = account.uid;
    let gid = match (security.run_as_group, wanted_group) {
        (Some(gid), _) => gid,
        (None, Some(group)) => find_group(files, group)?,
        (None, None) => account.gid,
    };
    let mut groups = security.supplemental_groups.clone();
    if !security.strict_supplemental_groups {
        groups.extend(groups_of(files, account.name));
    }
    // Other runtimes put the primary group among the others, and programs check for it there.
    groups.push(gid);
    groups.sort_unstable();
    groups.dedup();
    if groups.len() > GROUPS_MAX {
        return Err(Error::TooManyGroups(groups.len()));
    }
    for number in groups.iter().chain([&uid, &gid]) {
        u32::try_from(*number).map_err(|_| Error::OutOfRange(*number))?;
    }
    let home = if account.home.is_empty() { "/" } else { account.home }.to_owned();
    Ok(Identity { user: User { uid, gid, supplemental_groups: groups }, home })
}

#[derive(Debug, Clone, Copy)]
enum Wanted<'a> {
    Number(i64),
    Name(&'a str),
}

impl<'a> Wanted<'a> {
    fn parse(text: &'a str) -> Self {
        text.parse().map_or(Self::Name(text), Self::Number)
    }
}

fn wanted<'a>(image_user: &'a str, security: &'a SecurityContext) -> (Wanted<'a>, Option<Wanted<'a>>) {
    if let Some(uid) = security.run_as_user {
        return (Wanted::Number(uid), None);
    }
    if let Some(name) = &security.run_as_username {
        return (Wanted::parse(name), None);
    }
    let (user, group) = image_user.split_once(':').unwrap_or((image_user, ""));
    let user = if user.is_empty() { Wanted::Number(0) } else { Wanted::parse(user) };
    (user, Some(group).filter(|group| !group.is_empty()).map(Wanted::parse))
}

/// A number that has no line is a user without a name.
fn find_user<'a>(files: Databases<'a>, wanted: Wanted<'_>) -> Result<Account<'a>, Error> {
    match wanted {
        Wanted::Number(uid) => {
            Ok(accounts(files).find(|account| account.uid == uid).unwrap_or(Account { name: "", uid, gid: 0, home: "" }))
        }
        Wanted::Name(name) => accounts(files).find(|account| account.name == name).ok_or_else(|| Error::NoUser(name.to_owned())),
    }
}

fn find_group(files: Databases<'_>, wanted: Wanted<'_>) -> Result<i64, Error> {
    match wanted {
        Wanted::Number(gid) => Ok(gid),
        Wanted::Name(name) => {
            let named = entries(files.group).find_map(|[n, _, gid, _, _, _]| if n == name { gid.parse().ok() } else { None });
            named.ok_or_else(|| Error::NoGroup(name.to_owned()))
        }
    }
}

/// Those that list the user by name; a user without a name is in none.
fn groups_of<'a>(files: Databases<'a>, name: &'a str) -> impl Iterator<Item = i64> + 'a {
    let has = move |members: &str| !name.is_empty() && members.split(',').any(|member| member == name);
    entries(files.group).filter_map(move |[_, _, gid, members, _, _]| if has(members) { gid.parse().ok() } else { None })
}

fn accounts<'a>(files: Databases<'a>) -> impl Iterator<Item = Account<'a>> {
    entries(files.passwd)
        .filter_map(|[name, _, uid, gid, _, home]| Some(Account { name, uid: uid.parse().ok()?, gid: gid.parse().ok()?, home }))
}

/// The first six fields of each line, empty where there are fewer. A line of many costs no more
/// than its bytes.
fn entries(text: &str) -> impl Iterator<Item = [&str; 6]> {
    text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#')).map(|line| {
        let mut fields = line.split(':');
        std::array::from_fn(|_| fields.next().unwrap_or_default())
    })
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

    /// An image that lies about numbers, against each way to name a user and a group.
    #[test]
    fn numbers_are_never_looked_up_as_names() {
        const LIES: Databases<'_> = Databases {
            passwd: "1000:x:0:0:root:/root:/bin/sh\n+1000:x:0:0::/:\nroot:x:0:0:root:/root:/bin/sh\n2000:x:2000:2000::/two:\n",
            group: "1000:x:0:\n3000:x:0:1000,root\n4000:x:4000:2000\n",
        };
        let show = |image_user: &str, security: SecurityContext| {
            let i = resolve(LIES, image_user, &security).unwrap();
            format!("{}:{} {:?} {}", i.user.uid, i.user.gid, i.user.supplemental_groups, i.home)
        };
        let pod = |uid| SecurityContext { run_as_user: Some(uid), ..Default::default() };
        assert_eq!(show("", pod(1000)), "1000:0 [0] /");
        assert_eq!(show("root", pod(1000)), "1000:0 [0] /");
        assert_eq!(show("1000", SecurityContext::default()), "1000:0 [0] /");
        assert_eq!(show("+1000", SecurityContext::default()), "1000:0 [0] /", "Go's parser takes signs too");
        assert_eq!(show("1000:1000", SecurityContext::default()), "1000:1000 [1000] /");
        assert_eq!(show("root:1000", SecurityContext::default()), "0:1000 [0, 1000] /root");
        assert_eq!(show("2000:", SecurityContext::default()), "2000:2000 [2000, 4000] /two", "its own line names the number");
        let grouped = SecurityContext { run_as_group: Some(1000), ..pod(1000) };
        assert_eq!(show(":3000", grouped), "1000:1000 [1000] /");
    }

    #[test]
    fn hostile_files_cost_their_bytes() {
        let colons = ":".repeat(1 << 20);
        let members = format!("g:x:5:{}", "a,".repeat(1 << 19));
        let lines = "a:x:1:1\n".repeat(1 << 17);
        let empty = "\n".repeat(1 << 20);
        for text in [&colons, &members, &lines, &empty] {
            let files = Databases { passwd: text, group: text };
            let user = resolve(files, "", &SecurityContext { run_as_user: Some(7), ..Default::default() }).unwrap().user;
            assert_eq!((user.uid, user.gid, user.supplemental_groups), (7, 0, vec![0]));
            assert!(resolve(files, "nobody", &SecurityContext::default()).is_err());
        }
        let many: String = (0..70_000).map(|gid| format!("g:x:{gid}:web\n")).collect();
        let files = Databases { passwd: "web:x:33:33::/:", group: &many };
        let error = resolve(files, "web", &SecurityContext::default()).unwrap_err().to_string();
        assert_eq!(error, "the user is in 70000 groups; the kernel takes 65536");
    }
}
