//! The files that a validation's report goes into.

use std::collections::HashSet;

use anyhow::Result;

use super::file::ReportFile;
use super::validation::ValidationReport;
use crate::error::UsageError;

/// The files that a report goes into, in its several forms.
pub struct ReportForms {
    junit: Option<ReportFile>,
    markdown: Option<ReportFile>,
    html: Option<ReportFile>,
}

impl ReportForms {
    /// # Errors
    /// Two of them are one file.
    pub fn new(
        junit: Option<ReportFile>,
        markdown: Option<ReportFile>,
        html: Option<ReportFile>,
    ) -> Result<ReportForms> {
        let forms = ReportForms { junit, markdown, html };
        forms.refuse_duplicates()?;
        Ok(forms)
    }

    /// Writes every form that was asked for.
    ///
    /// # Errors
    /// Whatever the file system says.
    pub fn write(self, report: &ValidationReport) -> Result<()> {
        if let Some(file) = self.junit {
            file.write(&report.junit()?)?;
        }
        if let Some(file) = self.markdown {
            file.write(&report.markdown())?;
        }
        if let Some(file) = self.html {
            file.write(&report.html()?)?;
        }
        Ok(())
    }

    fn refuse_duplicates(&self) -> Result<()> {
        let mut seen = HashSet::new();
        for form in [&self.junit, &self.markdown, &self.html].into_iter().flatten() {
            if let ReportFile::Atomic(file) = form
                && !seen.insert(file.destination())
            {
                let message = format!("{}: two reports cannot go into one file", file.target().display());
                return Err(UsageError::new(message).into());
            }
        }
        Ok(())
    }
}
